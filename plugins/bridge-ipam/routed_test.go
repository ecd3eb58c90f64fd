package bridgeipam_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// routed is a network without a bridge.
func (n *node) routed(subnets ...string) string {
	return n.conf(map[string]any{"mode": "routed", "bridge": nil, "isGateway": nil, "ipam": ranges(subnets...)})
}

// TestRouted: pods reach each other, the host and the outside, in each family and in both.
func TestRouted(t *testing.T) {
	for name, subnets := range map[string][]string{
		"IPv4": {"10.33.0.0/24"}, "IPv6": {"fd33::/64"}, "dual stack": {"10.33.0.0/24", "fd33::/64"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			out := n.outside(1480)
			conf := n.routed(subnets...)
			var pods []string
			var results []result
			for i := range 3 {
				pods = append(pods, nettest.NewNS(t))
				r := n.add(fmt.Sprintf("c%d", i), pods[i], conf)
				if len(r.Interfaces) != 2 || *r.IPs[0].Interface != 1 || r.Interfaces[1].Sandbox != pods[i] || len(r.Routes) != len(subnets) {
					t.Errorf("%s", r.raw)
				}
				results = append(results, r)
			}
			for f := range subnets {
				v6 := results[0].addr(f).Is6()
				gw, host, far := "169.254.1.1", "192.0.2.1", "192.0.2.9"
				if v6 {
					gw, host, far = "fe80::1", "fd99::1", "fd99::9"
				}
				if ip := results[0].IPs[f]; ip.Address.Bits() != ip.Address.Addr().BitLen() || ip.Gateway.String() != gw {
					t.Errorf("%s by %s", ip.Address, ip.Gateway)
				}
				for i := range pods {
					from, to := i, (i+1)%len(pods)
					if seen := hello(t, pods[from], pods[to], results[to].addr(f)); seen.Addr() != results[from].addr(f) {
						t.Errorf("pod %d to pod %d: seen as %s, is %s", from, to, seen, results[from].addr(f))
					}
				}
				if seen := hello(t, n.ns, pods[0], results[0].addr(f)); seen.Addr().String() != host {
					t.Errorf("host to pod: seen as %s, is %s", seen, host)
				}
				if seen := hello(t, pods[1], n.ns, netip.MustParseAddr(host)); seen.Addr() != results[1].addr(f) {
					t.Errorf("pod to host: seen as %s, is %s", seen, results[1].addr(f))
				}
				if seen := hello(t, pods[2], out, netip.MustParseAddr(far)); seen.Addr().String() != host {
					t.Errorf("pod to the outside: seen as %s, is %s", seen, host)
				}
			}
			for i, pod := range pods {
				n.quiet(call{cmd: "CHECK", id: fmt.Sprintf("c%d", i), ifName: "eth0", netns: pod, conf: withPrev(t, conf, results[i].raw)})
			}
			at(t, pods[0], func(h *netutil.Handle) {
				if l, err := h.Link("eth0"); err != nil || l.MTU != 1480 {
					t.Errorf("%+v, %v", l, err)
				}
			})
			n.refused(call{cmd: "ADD", id: "c0", ifName: "eth0", netns: pods[0], conf: conf}, 999, "exists")
			n.del("c0", conf)
			gc := n.gc(map[string]any{"mode": "routed", "bridge": nil, "isGateway": nil, "ipam": ranges(subnets...)}, "c1")
			n.quiet(gc) // c2 goes
			n.quiet(call{cmd: "CHECK", id: "c1", ifName: "eth0", netns: pods[1], conf: withPrev(t, conf, results[1].raw)})
			n.del("c1", conf)
			n.clean("uplink")
			n.routes(results)
		})
	}
}

// routes expects that the host has none left to any address of the results.
func (n *node) routes(results []result) {
	at(n.t, n.ns, func(h *netutil.Handle) {
		for _, r := range results {
			for _, ip := range r.IPs {
				if has, err := h.HasRoute(netutil.Route{Dst: ip.Address}); has || err != nil {
					n.t.Errorf("route to %s: %t, %v", ip.Address, has, err)
				}
			}
		}
	})
}

// TestRoutedCheck finds what only routed mode has.
func TestRoutedCheck(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(n *node, host string)
		want  string
	}{
		"host route":      {func(n *node, _ string) { ip(n.t, n.ns, "route", "del", "10.33.0.2") }, "route to 10.33.0.2: missing on the host"},
		"IPv6 host route": {func(n *node, _ string) { ip(n.t, n.ns, "-6", "route", "del", "fd33::2") }, "route to fd33::2: missing on the host"},
		"other link": {func(n *node, _ string) {
			ip(n.t, n.ns, "route", "replace", "10.33.0.2", "dev", "uplink")
		}, "route to 10.33.0.2: missing on the host"},
		"gateway":      {func(n *node, host string) { ip(n.t, n.ns, "addr", "del", "169.254.1.1/32", "dev", host) }, "gateway 169.254.1.1"},
		"IPv6 gateway": {func(n *node, host string) { ip(n.t, n.ns, "addr", "del", "fe80::1/64", "dev", host) }, "gateway fe80::1"},
		"down":         {func(n *node, host string) { ip(n.t, n.ns, "link", "set", host, "down") }, "is down"},
		"masquerade":   {func(n *node, _ string) { n.unmasquerade() }, "masquerade"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.outside(1500)
			conf := n.routed("10.33.0.0/24", "fd33::/64")
			pod := nettest.NewNS(t)
			r := n.add("c", pod, conf)
			check := call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)}
			n.quiet(check)
			c.alter(n, r.Interfaces[0].Name)
			n.refused(check, 999, c.want)
			n.del("c", conf)
			n.clean("uplink")
		})
	}
}

// TestRoutedUndo: an ADD that fails in its last step, and one that was killed before its routes, leave nothing
// in the way.
func TestRoutedUndo(t *testing.T) {
	n := newNode(t)
	bad := ranges("10.33.0.0/24")
	bad["resolvConf"] = "/nonexistent"
	pod := nettest.NewNS(t)
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: n.conf(map[string]any{
		"mode": "routed", "bridge": nil, "ipam": bad,
	})}, 999, "/nonexistent")
	n.clean()
	conf := n.routed("10.33.0.0/24")
	r := n.add("c", pod, conf)
	ip(t, n.ns, "route", "del", r.addr(0).String()) // as if it had been killed before this step
	n.add("c", pod, conf)
	n.quiet(call{cmd: "DEL", id: "c", ifName: "eth0", conf: conf})
	n.clean()
	n.routes([]result{r})
}

// TestRoutedHostPorts: without a bridge, host ports lead to pods by the same ways in.
func TestRoutedHostPorts(t *testing.T) {
	n := newNode(t)
	lan := n.outside(1500)
	conf := n.with(map[string]any{"mode": "routed", "bridge": nil, "isGateway": nil, "ipam": ranges("10.33.0.0/24", "fd33::/64")},
		mapping{8080, 80, "tcp", ""}, mapping{8080, 80, "udp", ""})
	pod, other := nettest.NewNS(t), nettest.NewNS(t)
	n.add("c", pod, conf)
	n.add("other", other, n.routed("10.33.0.0/24", "fd33::/64"))
	serve(t, pod, "pod", 80)
	for _, way := range []struct{ what, ns, to string }{
		{"LAN", lan, "192.0.2.1:8080"}, {"LAN, IPv6", lan, "[fd99::1]:8080"},
		{"node", n.ns, "192.0.2.1:8080"}, {"node, IPv6", n.ns, "[fd99::1]:8080"},
		{"localhost", n.ns, "127.0.0.1:8080"}, {"localhost, IPv6", n.ns, "[::1]:8080"},
		{"another pod", other, "192.0.2.1:8080"}, {"another pod, IPv6", other, "[fd99::1]:8080"},
		{"the pod itself", pod, "192.0.2.1:8080"}, {"the pod itself, IPv6", pod, "[fd99::1]:8080"},
	} {
		for _, protocol := range []string{"tcp", "udp"} {
			if got := ask(t, way.ns, protocol, way.to, long); !strings.HasPrefix(got, "pod ") {
				t.Errorf("%s by %s: %q", way.what, protocol, got)
			}
		}
	}
	n.del("c", conf)
	n.del("other", conf)
	n.clean("uplink")
}
