package bridgeipam_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// mapping is one wish for a host port as runtimes write it.
type mapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// with adds port mappings, and changes to the configuration.
func (n *node) with(changes map[string]any, mappings ...mapping) string {
	n.t.Helper()
	all := map[string]any{"runtimeConfig": ports(mappings...)}
	for key, value := range changes {
		all[key] = value
	}
	return n.conf(all)
}

func ports(mappings ...mapping) map[string]any {
	return map[string]any{"portMappings": mappings}
}

// bridgeCalls sets whether bridges of the node call iptables: most nodes of Kubernetes have it on.
func (n *node) bridgeCalls(on bool) {
	n.t.Helper()
	value := "0"
	if on {
		value = "1"
	}
	at(n.t, n.ns, func(h *netutil.Handle) {
		for _, key := range []string{"iptables", "ip6tables"} {
			ok(n.t, h.SetSysctls(netutil.Sysctl{Key: "bridge/bridge-nf-call-" + key, Value: value, Optional: true}))
		}
	})
}

// serve answers on a port of a namespace, by both protocols: with a name and the address of who asks.
func serve(t testing.TB, ns, name string, port int) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	nettest.In(t, ns, func() (err error) {
		if tcp, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	answer := func(from net.Addr) []byte {
		a := netip.MustParseAddrPort(from.String())
		return []byte(name + " " + a.Addr().Unmap().String())
	}
	done := make(chan bool, 2)
	go func() {
		defer func() { done <- true }()
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(answer(c.RemoteAddr()))
			_ = c.Close()
		}
	}()
	go func() {
		defer func() { done <- true }()
		b := make([]byte, 16)
		for {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(answer(from), from)
		}
	}()
	t.Cleanup(func() {
		_ = tcp.Close()
		_ = udp.Close()
		<-done
		<-done
	})
}

// patience is how long a packet that is dropped is waited for, and how long one that is not.
const (
	short = 300 * time.Millisecond
	long  = 10 * time.Second
)

// ask connects from a namespace and returns the answer, empty when none came.
func ask(t testing.TB, ns, protocol, to string, patience time.Duration) string {
	t.Helper()
	var conn net.Conn
	nettest.In(t, ns, func() error {
		d := net.Dialer{Timeout: patience}
		conn, _ = d.Dial(protocol, to)
		return nil
	})
	if conn == nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	return talk(t, conn, patience)
}

func talk(t testing.TB, conn net.Conn, patience time.Duration) string {
	t.Helper()
	if _, err := conn.Write([]byte("?")); err != nil {
		return ""
	}
	ok(t, conn.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 64)
	c, _ := conn.Read(b)
	return string(b[:c])
}

// reaches expects an answer from a pod that sees an address.
func reaches(t testing.TB, ns, protocol, to, want string) {
	t.Helper()
	if got := ask(t, ns, protocol, to, long); got != want {
		t.Errorf("%s to %s: %q, want %q", protocol, to, got, want)
	}
}

// silent expects no answer.
func silent(t testing.TB, ns, protocol, to string) {
	t.Helper()
	if got := ask(t, ns, protocol, to, short); got != "" {
		t.Errorf("%s to %s: %q, want none", protocol, to, got)
	}
}

var both = []string{"tcp", "udp"}

// TestHostPortWaysIn: from the LAN, the node, its loopback, another pod and the pod itself, on nodes whose
// bridges call iptables and on others.
func TestHostPortWaysIn(t *testing.T) {
	for _, calls := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridge-nf-call=%t", calls), func(t *testing.T) {
			n := newNode(t)
			n.bridgeCalls(calls)
			lan, pod, other := n.outside(1500), nettest.NewNS(t), nettest.NewNS(t)
			conf := n.with(nil, mapping{8080, 80, "tcp", ""}, mapping{8080, 80, "udp", ""}, mapping{9999, 99, "sctp", ""})
			r := n.add("c", pod, conf)
			o := n.add("o", other, n.conf(nil))
			serve(t, pod, "pod", 80)
			for _, protocol := range both {
				for family, f := range []struct{ node, lan, gateway, loopback string }{
					{"192.0.2.1", "192.0.2.9", "10.77.0.1", "127.0.0.1"}, {"fd99::1", "fd99::9", "fd77::1", "::1"},
				} {
					to := net.JoinHostPort(f.node, "8080")
					reaches(t, lan, protocol, to, "pod "+f.lan)
					reaches(t, n.ns, protocol, to, "pod "+f.node)
					reaches(t, n.ns, protocol, net.JoinHostPort(f.gateway, "8080"), "pod "+f.gateway)
					seen := f.gateway
					if calls {
						seen = o.addr(family).String() // the bridge itself translates the answers
					}
					reaches(t, other, protocol, to, "pod "+seen)
					reaches(t, pod, protocol, to, "pod "+f.gateway)
					if to := net.JoinHostPort(f.loopback, "8080"); family == 0 || !calls {
						reaches(t, n.ns, protocol, to, "pod "+f.gateway)
					} else {
						silent(t, n.ns, protocol, to)
					}
				}
			}
			n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)})
			n.del("o", conf)
			for range 2 {
				n.del("c", conf)
			}
			silent(t, lan, "tcp", "192.0.2.1:8080")
			n.clean("uplink", "br0")
			at(t, n.ns, func(h *netutil.Handle) {
				if v, err := h.Sysctl("ipv4/conf/br0/route_localnet"); v != "0" {
					t.Errorf("route_localnet is %q, %v", v, err)
				}
			})
		})
	}
}

// TestHostIP: a mapping for one address of the node is for no other, and goes before one for all.
func TestHostIP(t *testing.T) {
	n := newNode(t)
	lan := n.outside(1500)
	a, b, local := nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)
	n.add("a", a, n.with(nil, mapping{80, 80, "tcp", "192.0.2.1"}, mapping{80, 80, "tcp", "fd99::1"}))
	n.add("b", b, n.with(nil, mapping{80, 80, "tcp", "0.0.0.0"}, mapping{80, 80, "tcp", "::"}))
	n.add("local", local, n.with(nil, mapping{81, 80, "tcp", "127.0.0.1"}))
	for name, ns := range map[string]string{"a": a, "b": b, "local": local} {
		serve(t, ns, name, 80)
	}
	reaches(t, lan, "tcp", "192.0.2.1:80", "a 192.0.2.9")
	reaches(t, lan, "tcp", "[fd99::1]:80", "a fd99::9")
	reaches(t, n.ns, "tcp", "10.77.0.1:80", "b 10.77.0.1")
	reaches(t, n.ns, "tcp", "[fd77::1]:80", "b fd77::1")
	reaches(t, n.ns, "tcp", "127.0.0.1:81", "local 10.77.0.1")
	silent(t, lan, "tcp", "192.0.2.1:81")
}

// TestHostPortConflict: the first keeps its port, the second leaves nothing, whatever network it is of.
func TestHostPortConflict(t *testing.T) {
	n := newNode(t)
	pod := nettest.NewNS(t)
	conf := n.with(nil, mapping{80, 80, "tcp", ""})
	r := n.add("first", pod, conf)
	second := n.with(nil, mapping{81, 80, "tcp", ""}, mapping{80, 8080, "tcp", "::"})
	another := n.with(map[string]any{"name": "another", "bridge": "br1", "ipam": ranges("10.78.0.0/24")}, mapping{80, 80, "tcp", ""})
	before := fmt.Sprint(n.left())
	for _, c := range []string{second, another} {
		n.refused(call{cmd: "ADD", id: "second", ifName: "eth0", netns: nettest.NewNS(t), conf: c}, 999, "host port tcp ", ":80", "first", "net")
		at(t, n.ns, func(h *netutil.Handle) {
			if br, err := h.Link("br1"); err == nil { // what ADD made of a bridge stays, as ever
				ok(t, h.DeleteLink(br.Name))
			}
		})
		if after := fmt.Sprint(n.left()); after != before {
			t.Errorf("left %s, was %s", after, before)
		}
	}
	n.quiet(call{cmd: "CHECK", id: "first", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)})
	udp := n.with(nil, mapping{80, 80, "udp", ""}, mapping{80, 80, "tcp", "192.0.2.1"})
	n.add("udp", nettest.NewNS(t), udp)
	n.del("first", conf)
	n.add("second", nettest.NewNS(t), second)
	n.del("second", second)
	n.del("udp", udp)
	n.clean("br0")
}

// nft runs nft(8), for what it shows and for what others do with it.
func (n *node) nft(args ...string) string {
	n.t.Helper()
	return nettest.Output(n.t, n.ns, "nft", args...)
}

// TestHostPortsComeBack: rules that somebody deleted come back with the next ADD, CHECK, GC or STATUS.
func TestHostPortsComeBack(t *testing.T) {
	n := newNode(t)
	lan, pod := n.outside(1500), nettest.NewNS(t)
	conf := n.with(nil, mapping{8080, 80, "tcp", ""})
	r := n.add("c", pod, conf)
	serve(t, pod, "pod", 80)
	works := func() bool {
		return ask(t, lan, "tcp", "192.0.2.1:8080", short) == "pod 192.0.2.9" &&
			hello(t, pod, lan, netip.MustParseAddr("192.0.2.9")).Addr().String() == "192.0.2.1" // masquerade
	}
	next := 0
	add := func(conf string) func() {
		return func() {
			next++
			id := fmt.Sprintf("next%d", next)
			n.add(id, nettest.NewNS(t), conf)
			n.del(id, conf)
		}
	}
	valid := n.conf(map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": "c", "ifname": "eth0"}}})
	check := call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)}
	for name, mend := range map[string]func(){
		"ADD": add(n.conf(nil)), "ADD with a port": add(n.with(nil, mapping{81, 80, "tcp", ""})),
		"CHECK":  func() { n.quiet(check) },
		"GC":     func() { n.quiet(call{cmd: "GC", conf: valid}) },
		"STATUS": func() { n.quiet(call{cmd: "STATUS", conf: n.conf(nil)}) },
	} {
		for _, harm := range []string{"flush ruleset", "flush table inet bridge-ipam", "delete table inet bridge-ipam"} {
			n.nft(strings.Fields(harm)...)
			if ask(t, lan, "tcp", "192.0.2.1:8080", short) != "" {
				t.Errorf("%s did no harm", harm)
			}
			if mend(); !works() {
				t.Errorf("%s after %s: not restored\n%s", name, harm, n.nft("list", "ruleset"))
			}
		}
	}
	// A conflict is found although the rules are gone.
	n.nft("flush", "ruleset")
	n.refused(call{cmd: "ADD", id: "d", ifName: "eth0", netns: nettest.NewNS(t), conf: conf}, 999, "tcp 0.0.0.0:8080", "container c")
	n.quiet(check)
	// What is missing of its own beside others is CHECK's to report, and GC's and STATUS's to mend.
	for _, mend := range []call{{cmd: "GC", conf: valid}, {cmd: "STATUS", conf: n.conf(nil)}} {
		n.nft("flush", "map", "inet", "bridge-ipam", "hostport-any4")
		n.refused(check, 999, "host port tcp 0.0.0.0:8080")
		if n.quiet(mend); !works() {
			t.Errorf("%s: not restored", mend.cmd)
		}
		n.quiet(check)
	}
}

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

// TestSNAT: without it every source is kept, and ways in whose answers cannot come back are given up; with
// masqAll none is.
func TestSNAT(t *testing.T) {
	n := newNode(t)
	n.bridgeCalls(false)
	lan, plain, all := n.outside(1500), nettest.NewNS(t), nettest.NewNS(t)
	n.add("plain", plain, n.with(map[string]any{"snat": false, "masqAll": true}, mapping{80, 80, "tcp", ""}))
	serve(t, plain, "plain", 80)
	reaches(t, lan, "tcp", "192.0.2.1:80", "plain 192.0.2.9")
	silent(t, n.ns, "tcp", "127.0.0.1:80")
	silent(t, n.ns, "tcp", "[::1]:80")
	silent(t, plain, "tcp", "192.0.2.1:80")
	at(t, n.ns, func(h *netutil.Handle) {
		if v, err := h.Sysctl("ipv4/conf/br0/route_localnet"); v != "0" {
			t.Errorf("route_localnet is %q, %v", v, err)
		}
	})
	conf := n.with(map[string]any{"masqAll": true, "markMasqBit": 5}, mapping{81, 80, "tcp", ""})
	a := n.run(call{cmd: "ADD", id: "all", ifName: "eth0", netns: all, conf: conf})
	if a.code != 0 || !strings.Contains(a.stderr, "markMasqBit 5") {
		t.Errorf("%+v", a)
	}
	serve(t, all, "all", 80)
	reaches(t, lan, "tcp", "192.0.2.1:81", "all 10.77.0.1")
	reaches(t, lan, "tcp", "[fd99::1]:81", "all fd77::1")
	reaches(t, n.ns, "tcp", "[::1]:81", "all fd77::1")
}

// TestStaleFlows: a client that never stops sending is answered by whoever has the port now: nobody, a pod,
// the next pod.
func TestStaleFlows(t *testing.T) {
	n := newNode(t)
	lan := n.outside(1500)
	n.add("keep", nettest.NewNS(t), n.with(nil, mapping{1, 1, "tcp", ""})) // flows are tracked from here on
	serve(t, n.ns, "node", 53)
	var conns []net.Conn
	nettest.In(t, lan, func() error {
		for _, to := range []string{"192.0.2.1:53", "[fd99::1]:53"} {
			c, err := net.Dial("udp", to)
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	})
	expect := func(want string) {
		t.Helper()
		for i, from := range []string{" 192.0.2.9", " fd99::9"} {
			if got := talk(t, conns[i], long); got != want+from {
				t.Errorf("%q, want %s", got, want)
			}
		}
	}
	expect("node")
	for _, name := range []string{"first", "second"} {
		pod := nettest.NewNS(t)
		conf := n.with(nil, mapping{53, 53, "udp", ""}, mapping{53, 53, "tcp", ""})
		r := n.add(name, pod, conf)
		serve(t, pod, name, 53)
		expect(name)
		before := n.flows(r.addr(0))
		reaches(t, lan, "tcp", "192.0.2.1:53", name+" 192.0.2.9")
		reaches(t, lan, "tcp", "[fd99::1]:53", name+" fd99::9")
		if got := n.flows(r.addr(0)) - before; got != 1 {
			t.Errorf("%d flows, %d before", got, before)
		}
		n.del(name, conf)
		if left := n.flows(r.addr(0)) + n.flows(r.addr(1)); left != 0 {
			t.Errorf("%d flows left", left)
		}
		expect("node")
	}
	for _, c := range conns {
		ok(t, c.Close())
	}
}

// flows counts the tracked flows with an address.
func (n *node) flows(addr netip.Addr) int {
	n.t.Helper()
	var table []byte
	nettest.In(n.t, n.ns, func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/nf_conntrack")
		return err
	})
	count := 0
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, "="+addr.StringExpanded()+" ") {
			count++
		}
	}
	return count
}
