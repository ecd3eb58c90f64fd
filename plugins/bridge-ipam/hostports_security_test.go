package bridgeipam_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestLoopbackFromOutside: neither the LAN nor a pod gets at the node's 127.0.0.1 (CVE-2020-8558), nor do
// they pass for it.
func TestLoopbackFromOutside(t *testing.T) {
	for _, calls := range []bool{false, true} {
		n := newNode(t)
		n.bridgeCalls(calls)
		lan, pod, other := n.outside(1500), nettest.NewNS(t), nettest.NewNS(t)
		n.add("c", pod, n.with(nil, mapping{8080, 80, "tcp", ""}, mapping{8080, 80, "udp", "127.0.0.1"}))
		n.add("o", other, n.conf(nil))
		serve(t, pod, "pod", 80)
		serve(t, n.ns, "node", 7070)
		reaches(t, n.ns, "udp", "127.0.0.1:7070", "node 127.0.0.1")
		heard := listen(t, n.ns)
		for from, via := range map[string]string{lan: "192.0.2.1", pod: "10.77.0.1", other: "10.77.0.1"} {
			// An attacker who routes 127.0.0.0/8 to the node, and is not bothered by an address of his own in it.
			nettest.Output(t, from, "sh", "-ec", `ip addr flush dev lo
				for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 > $f; done
				for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done
				ip route add 127.0.0.0/8 via `+via)
			silent(t, from, "tcp", "127.0.0.1:7070")
			silent(t, from, "udp", "127.0.0.1:7070")
			silent(t, from, "udp", "127.0.0.1:8080")
			nettest.Output(t, from, "ip", "addr", "add", "127.0.0.2/32", "dev", "lo")
			if sender := heard(from, "127.0.0.2", via); sender != "" {
				t.Errorf("passed for %s", sender)
			}
		}
	}
}

// listen takes datagrams. What it returns sends one to an address, from an address in a namespace, and says
// who was heard.
func listen(t testing.TB, ns string) func(from, as, to string) string {
	t.Helper()
	var server net.PacketConn
	nettest.In(t, ns, func() (err error) {
		server, err = net.ListenPacket("udp4", ":0")
		return err
	})
	t.Cleanup(func() { _ = server.Close() })
	_, port, err := net.SplitHostPort(server.LocalAddr().String())
	ok(t, err)
	return func(from, as, to string) string {
		var conn net.Conn
		nettest.In(t, from, func() (err error) {
			d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(as), 0))}
			conn, err = d.Dial("udp", net.JoinHostPort(to, port))
			return err
		})
		defer func() { _ = conn.Close() }()
		_, err := conn.Write([]byte("hello"))
		ok(t, err)
		ok(t, server.SetReadDeadline(time.Now().Add(short)))
		_, sender, err := server.ReadFrom(make([]byte, 16))
		if err != nil {
			return ""
		}
		return sender.String()
	}
}

// TestTransitIsNotStolen: what passes the node on its way to the same port of another host goes there
// (CVE-2025-67499), also what a pod sends.
func TestTransitIsNotStolen(t *testing.T) {
	n := newNode(t)
	lan, pod, client := n.outside(1500), nettest.NewNS(t), nettest.NewNS(t)
	n.add("c", pod, n.with(nil, mapping{80, 80, "tcp", ""}, mapping{80, 80, "udp", ""}))
	n.add("client", client, n.conf(nil))
	serve(t, pod, "pod", 80)
	serve(t, lan, "lan", 80)
	for _, protocol := range both {
		reaches(t, client, protocol, "192.0.2.9:80", "lan 192.0.2.1")
		reaches(t, client, protocol, "[fd99::9]:80", "lan fd99::1")
		reaches(t, n.ns, protocol, "192.0.2.9:80", "lan 192.0.2.1")
		reaches(t, lan, protocol, "192.0.2.1:80", "pod 192.0.2.9")
	}
}

// TestServicesGoFirst: whoever translates at the usual priority, as kube-proxy does in both of its modes,
// wins over host ports, whether its rules came before or after (CVE-2019-9946).
func TestServicesGoFirst(t *testing.T) {
	n := newNode(t)
	lan, pod, backend := n.outside(1500), nettest.NewNS(t), nettest.NewNS(t)
	b := n.add("backend", backend, n.conf(nil))
	n.add("c", pod, n.with(nil, mapping{80, 80, "tcp", ""}, mapping{81, 80, "tcp", ""}))
	n.nft(fmt.Sprintf(`table ip kube-proxy {
		chain nat-prerouting { type nat hook prerouting priority dstnat; ip daddr 192.0.2.1 tcp dport 80 dnat to %s:80; }
		chain nat-output { type nat hook output priority -100; ip daddr 192.0.2.1 tcp dport 80 dnat to %[1]s:80; }
	}`, b.addr(0)))
	serve(t, pod, "pod", 80)
	serve(t, backend, "service", 80)
	reaches(t, lan, "tcp", "192.0.2.1:80", "service 192.0.2.9")
	reaches(t, n.ns, "tcp", "192.0.2.1:80", "service 192.0.2.1")
	reaches(t, lan, "tcp", "192.0.2.1:81", "pod 192.0.2.9")
}
