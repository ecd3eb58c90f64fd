package bridgeipam_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestHostPortSCTP: associations through a host port, from the LAN, the node and another pod, beside a mapping of the same
// number for TCP. Go's net package has no SCTP: these are sockets of sctp(7).
func TestHostPortSCTP(t *testing.T) {
	n := newNode(t)
	n.bridgeCalls(false)
	lan, pod, elsewhere, other := n.outside(1500), nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)
	conf := n.with(nil, mapping{3868, 3868, "sctp", ""})
	r := n.add("c", pod, conf)
	n.add("tcp", elsewhere, n.with(nil, mapping{3868, 3868, "tcp", ""}))
	serve(t, elsewhere, "tcp", 3868)
	o := n.add("o", other, n.conf(nil))

	var listeners []int
	for family, f := range []struct{ node, lan, gateway string }{
		{"192.0.2.1", "192.0.2.9", "10.77.0.1"}, {"fd99::1", "fd99::9", "fd77::1"},
	} {
		listener := sctpSocket(t, pod, netip.AddrPortFrom(r.addr(family), 3868))
		ok(t, unix.Listen(listener, 8))
		listeners = append(listeners, listener)
		to := netip.AddrPortFrom(netip.MustParseAddr(f.node), 3868)
		for _, way := range []struct{ name, ns, from, seen string }{
			{"LAN", lan, f.lan, f.lan}, {"node", n.ns, f.node, f.node}, {"pod", other, o.addr(family).String(), f.gateway},
		} {
			seen, err := sctpTalk(t, way.ns, netip.MustParseAddr(way.from), to, listener)
			if err != nil || seen != way.seen {
				t.Errorf("from the %s to %s: the pod sees %q, %v; want %q", way.name, to, seen, err, way.seen)
			}
		}
	}
	reaches(t, lan, "tcp", "192.0.2.1:3868", "tcp 192.0.2.9")
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)})
	n.del("c", conf)
	seen, err := sctpTalk(t, lan, netip.MustParseAddr("192.0.2.9"), netip.MustParseAddrPort("192.0.2.1:3868"), listeners[0])
	if err == nil {
		t.Errorf("after DEL the pod is still reached, by %s", seen)
	}
}

// sctpSocket makes a socket of one association, bound to one address: it is not multi-homed. Its calls wait a second.
func sctpSocket(t *testing.T, ns string, addr netip.AddrPort) (fd int) {
	t.Helper()
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	var refused error
	nettest.In(t, ns, func() error {
		fd, refused = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		return nil
	})
	if errors.Is(refused, unix.EPROTONOSUPPORT) {
		t.Skip("this kernel has no SCTP (CONFIG_IP_SCTP)")
	}
	ok(t, refused)
	t.Cleanup(func() { _ = unix.Close(fd) })
	second := unix.NsecToTimeval(time.Second.Nanoseconds())
	ok(t, errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &second),
		unix.Bind(fd, sockaddr(addr)),
	))
	return fd
}

// sctpTalk makes an association and has what listens answer. It says whom that sees.
func sctpTalk(t *testing.T, ns string, from netip.Addr, to netip.AddrPort, listener int) (seen string, err error) {
	t.Helper()
	client := sctpSocket(t, ns, netip.AddrPortFrom(from, 0))
	if err := unix.Connect(client, sockaddr(to)); err != nil {
		return "", err
	}
	server, peer, err := unix.Accept(listener)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(server) }()
	if _, err := unix.Write(server, []byte("well")); err != nil {
		return "", err
	}
	b := make([]byte, 8)
	if got, err := unix.Read(client, b); err != nil || string(b[:got]) != "well" {
		return "", errors.Join(err, errors.New("no answer"))
	}
	switch p := peer.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(p.Addr).String(), nil
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(p.Addr).String(), nil
	}
	return "", errors.New("a peer without an address")
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
