package bridgeipam_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

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

// TestHostPortsComeBack: rules that somebody deleted come back with the next ADD, CHECK, GC or STATUS.
func TestHostPortsComeBack(t *testing.T) {
	n := newNode(t)
	lan, pod := n.outside(1500), nettest.NewNS(t)
	conf := n.with(nil, mapping{8080, 80, "tcp", ""})
	r := n.add("c", pod, conf)
	serve(t, pod, "pod", 80)
	works := func() bool {
		return ask(t, lan, "tcp", "192.0.2.1:8080", long) == "pod 192.0.2.9" &&
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
