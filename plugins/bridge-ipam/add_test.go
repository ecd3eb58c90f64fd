package bridgeipam_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

func TestTwoPods(t *testing.T) {
	n := newNode(t)
	conf := n.conf(nil)
	pods := []string{nettest.NewNS(t), nettest.NewNS(t)}
	var results []result
	for i, pod := range pods {
		r := n.add(fmt.Sprintf("c%d", i), pod, conf)
		results = append(results, r)
		if len(r.Interfaces) != 3 || r.Interfaces[0].Name != "br0" || r.Interfaces[2].Name != "eth0" ||
			r.Interfaces[2].Sandbox != pod || r.Interfaces[1].Sandbox != "" || r.CNIVersion != "1.1.0" {
			t.Errorf("%s", r.raw)
		}
		if len(r.IPs) != 2 || *r.IPs[0].Interface != 2 || *r.IPs[1].Interface != 2 || len(r.Routes) != 2 ||
			r.IPs[0].Gateway.String() != "10.77.0.1" || r.IPs[1].Gateway.String() != "fd77::1" || r.IPs[1].Address.Bits() != 64 {
			t.Errorf("%s", r.raw)
		}
	}
	for family := range 2 {
		a, b := results[0].addr(family), results[1].addr(family)
		if seen := hello(t, pods[0], pods[1], b); seen.Addr() != a {
			t.Errorf("pod to pod: seen as %s, is %s", seen, a)
		}
		gw := results[0].IPs[family].Gateway
		if seen := hello(t, pods[1], n.ns, gw); seen.Addr() != b {
			t.Errorf("pod to gateway: seen as %s, is %s", seen, b)
		}
		if seen := hello(t, n.ns, pods[0], a); seen.Addr() != gw {
			t.Errorf("node to pod: seen as %s, is %s", seen, gw)
		}
	}
	for i, pod := range pods {
		n.quiet(call{cmd: "CHECK", id: fmt.Sprintf("c%d", i), ifName: "eth0", netns: pod, conf: withPrev(t, conf, results[i].raw)})
	}
	n.lookAtLinks(pods[0], results[0])
	for i, pod := range pods {
		for range 2 {
			n.quiet(call{cmd: "DEL", id: fmt.Sprintf("c%d", i), ifName: "eth0", netns: pod, conf: withPrev(t, conf, results[i].raw)})
		}
		at(t, pod, func(h *netutil.Handle) {
			if _, err := h.Link("eth0"); err == nil {
				t.Error("eth0 is still there")
			}
		})
	}
	n.clean("br0")
}

// lookAtLinks checks what a result does not say.
func (n *node) lookAtLinks(pod string, r result) {
	t := n.t
	at(t, n.ns, func(h *netutil.Handle) {
		host, err := h.Link(r.Interfaces[1].Name)
		ok(t, err)
		if host.Alias == "" || !strings.HasSuffix(host.Alias, " net c0 eth0") || host.MAC.String() != r.Interfaces[1].Mac ||
			host.MAC.String() != "fe:ff:ff:ff:ff:ff" {
			t.Errorf("host end: %+v", host)
		}
		if addrs, err := h.Addrs(host.Index); len(addrs) != 0 || err != nil {
			t.Errorf("host end has %v, %v", addrs, err)
		}
		for key, want := range map[string]string{
			"ipv6/conf/br0/accept_ra": "0", "ipv6/conf/" + host.Name + "/accept_ra": "0", "ipv6/conf/br0/accept_dad": "0",
			"ipv6/conf/" + host.Name + "/disable_ipv6": "1",
			"ipv4/ip_forward":                          "1", "ipv6/conf/all/forwarding": "1",
		} {
			if got, err := h.Sysctl(key); got != want || err != nil {
				t.Errorf("%s: %q, %v; want %s", key, got, err, want)
			}
		}
		br, err := h.Link("br0")
		ok(t, err)
		if br.MAC.String() != r.Interfaces[0].Mac { // pinned: it did not follow its ports
			t.Errorf("bridge has %s, had %s", br.MAC, r.Interfaces[0].Mac)
		}
	})
	at(t, pod, func(h *netutil.Handle) {
		link, err := h.Link("eth0")
		ok(t, err)
		if link.MAC.String() != r.Interfaces[2].Mac || !strings.HasPrefix(link.MAC.String(), "0a:58:0a:4d:00:") {
			t.Errorf("pod end: %+v", link)
		}
	})
}

// TestVersions: the result has the version and the form of the configuration's.
func TestVersions(t *testing.T) {
	n := newNode(t)
	for version, want := range map[string]string{
		"0.1.0": `"ip4"`, "0.2.0": `"ip6"`, "0.3.0": `"version": "4"`, "0.3.1": `"version": "6"`, "0.4.0": `"version": "4"`,
		"1.0.0": `"interface": 2`, "1.1.0": `"interface": 2`, "": `"ip4"`,
	} {
		conf := n.conf(map[string]any{"cniVersion": version})
		if version == "" {
			conf = n.conf(map[string]any{"cniVersion": nil})
			version = "0.1.0" // what a configuration without one means
		}
		r := n.add("c", nettest.NewNS(t), conf)
		if r.CNIVersion != version || !strings.Contains(r.raw, want) {
			t.Errorf("%s: %s is not in %s", version, want, r.raw)
		}
		n.del("c", conf)
	}
	n.clean("br0")
}

// TestExistingInterface: rule 1 of FEATURES.md D.7.
func TestExistingInterface(t *testing.T) {
	n := newNode(t)
	pod := nettest.NewNS(t)
	at(t, pod, func(h *netutil.Handle) { ok(t, h.AddBridge("eth0", nil, 1234)) })
	conf := n.conf(nil)
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: conf}, 999, "eth0", "exists")
	at(t, pod, func(h *netutil.Handle) {
		if l, err := h.Link("eth0"); err != nil || l.MTU != 1234 || l.Kind != "bridge" {
			t.Errorf("the old interface: %+v, %v", l, err)
		}
	})
	n.clean()
	other := nettest.NewNS(t)
	r := n.add("c", other, conf)
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: other, conf: conf}, 999, "exists")
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: nettest.NewNS(t), conf: conf}, 999, "attached already")
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: other, conf: withPrev(t, conf, r.raw)})
	n.del("c", conf)
	n.clean("br0")
}

// TestFailedAddLeavesNothing: rule 2. Each configuration fails at another step.
func TestFailedAddLeavesNothing(t *testing.T) {
	badRoute := ranges("10.77.0.0/24")
	badRoute["routes"] = []any{map[string]any{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}} // no way to this gateway
	badDNS := ranges("10.77.0.0/24")
	badDNS["resolvConf"] = "/nonexistent"
	for name, c := range map[string]struct {
		changes map[string]any
		prepare func(h *netutil.Handle)
		links   []string
		word    string
	}{
		"bridge is none": {
			map[string]any{"bridge": "dummy"},
			func(h *netutil.Handle) { ok(t, h.AddVeth(loneVeth(t))) }, []string{"dummy"}, "dummy",
		},
		"another address": {nil, func(h *netutil.Handle) {
			ok(t, h.AddBridge("br0", nil, 0))
			br, err := h.Link("br0")
			ok(t, err)
			ok(t, h.AddAddr(br.Index, netip.MustParsePrefix("10.1.1.1/24")))
		}, []string{"br0"}, "forceAddress"},
		"route":     {map[string]any{"ipam": badRoute}, nil, []string{"br0"}, "10.9.0.0/16"},
		"last step": {map[string]any{"ipam": badDNS}, nil, []string{"br0"}, "/nonexistent"},
		"last step with host ports": {map[string]any{"ipam": badDNS, "runtimeConfig": ports(mapping{80, 80, "tcp", ""}, mapping{53, 53, "udp", ""})},
			nil, []string{"br0"}, "/nonexistent"},
		"no address": {map[string]any{"ipam": ranges("10.77.0.0/24"), "args": requested("10.77.0.1")}, nil, nil, "10.77.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			if c.prepare != nil {
				at(t, n.ns, c.prepare)
			}
			pod := nettest.NewNS(t)
			n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: n.conf(c.changes)}, 999, c.word)
			n.clean(c.links...)
			at(t, pod, func(h *netutil.Handle) {
				if _, err := h.Link("eth0"); err == nil {
					t.Error("eth0 is there")
				}
			})
		})
	}
}

func requested(ips ...string) map[string]any {
	return map[string]any{"cni": map[string]any{"ips": ips}}
}

// loneVeth is a link named dummy that is no bridge.
func loneVeth(t testing.TB) netutil.Veth {
	ns, err := netutil.OpenNS(nettest.NewNS(t))
	ok(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	return netutil.Veth{Name: "dummy", Peer: "peer", PeerNS: ns}
}

// TestForceAddress replaces what TestFailedAddLeavesNothing stumbles over: any IPv4 network, and IPv6 networks that overlap
// with ours. Others stay.
func TestForceAddress(t *testing.T) {
	n := newNode(t)
	list := func(all ...string) (out []netip.Prefix) {
		for _, p := range all {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	at(t, n.ns, func(h *netutil.Handle) {
		ok(t, h.AddBridge("br0", nil, 0))
		br, err := h.Link("br0")
		ok(t, err)
		for _, p := range list("10.1.1.1/24", "fd77::99/64", "fd99::1/64") {
			ok(t, h.AddAddr(br.Index, p))
		}
	})
	conf := n.conf(map[string]any{"forceAddress": true})
	n.add("c", nettest.NewNS(t), conf)
	at(t, n.ns, func(h *netutil.Handle) {
		br, err := h.Link("br0")
		ok(t, err)
		addrs, err := h.Addrs(br.Index)
		ok(t, err)
		addrs = slices.DeleteFunc(addrs, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
		slices.SortFunc(addrs, netip.Prefix.Compare)
		if want := list("10.77.0.1/24", "fd77::1/64", "fd99::1/64"); !slices.Equal(addrs, want) {
			t.Errorf("addresses %v, want %v", addrs, want)
		}
	})
}

// TestChained: rule 3. What earlier plugins made keeps its place.
func TestChained(t *testing.T) {
	n := newNode(t)
	prev := `{"cniVersion":"1.1.0","interfaces":[{"name":"other0","sandbox":"/x"}],
		"ips":[{"address":"10.5.0.2/24","interface":0}],"routes":[{"dst":"10.5.0.0/16"}],"dns":{"nameservers":["10.5.0.1"]}}`
	pod := nettest.NewNS(t)
	conf := n.conf(nil)
	r := n.add("c", pod, withPrev(t, conf, prev))
	if len(r.Interfaces) != 4 || r.Interfaces[0].Name != "other0" || *r.IPs[0].Interface != 0 || *r.IPs[1].Interface != 3 ||
		len(r.Routes) != 3 || len(r.DNS.Nameservers) != 1 {
		t.Errorf("%s", r.raw)
	}
}

// TestKeys: one configuration with the keys that change links and results.
func TestKeys(t *testing.T) {
	n := newNode(t)
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	ok(t, os.WriteFile(resolv, []byte("# c\nnameserver 10.0.0.53\nsearch a b\noptions ndots:2\n"), 0o600))
	ipam := ranges("10.77.0.0/24")
	ipam["resolvConf"] = resolv
	ipam["routes"] = []any{map[string]any{"dst": "10.9.0.0/16", "gw": "10.77.0.9", "mtu": 1300, "priority": 7, "table": 99}}
	conf := n.conf(map[string]any{
		"ipam": ipam, "isGateway": false, "isDefaultGateway": true, "mtu": 1400, "hairpinMode": true,
		"runtimeConfig": map[string]any{"mac": "02:00:00:00:00:07", "ips": []string{"10.77.0.70/24"}},
	})
	pod := nettest.NewNS(t)
	r := n.add("c", pod, conf)
	if r.addr(0).String() != "10.77.0.70" || r.Interfaces[2].Mac != "02:00:00:00:00:07" || len(r.Routes) != 2 ||
		r.Routes[1].Dst.String() != "0.0.0.0/0" || r.Routes[1].GW.String() != "10.77.0.1" ||
		len(r.DNS.Nameservers) != 1 || len(r.DNS.Search) != 2 || len(r.DNS.Options) != 1 {
		t.Errorf("%s", r.raw)
	}
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)})
	at(t, pod, func(h *netutil.Handle) {
		l, err := h.Link("eth0")
		ok(t, err)
		if l.MTU != 1400 {
			t.Errorf("%+v", l)
		}
		for _, want := range []netutil.Route{
			{Dst: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("10.77.0.9"), Table: 99},
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.77.0.1")},
		} {
			if has, err := h.HasRoute(want); !has || err != nil {
				t.Errorf("route %v: %v, %v", want, has, err)
			}
		}
	})
	at(t, n.ns, func(h *netutil.Handle) {
		l, err := h.Link(r.Interfaces[1].Name)
		ok(t, err)
		if hairpin, err := h.Hairpin(l.Index); !hairpin || err != nil || l.MTU != 1400 {
			t.Errorf("%+v, hairpin %v, %v", l, hairpin, err)
		}
	})
	second := n.conf(map[string]any{"ipam": ipam, "runtimeConfig": map[string]any{"ips": []string{"10.77.0.70"}}})
	n.refused(call{cmd: "ADD", id: "d", ifName: "eth0", netns: nettest.NewNS(t), conf: second}, 999, "10.77.0.70", "in use")
	dns := n.conf(map[string]any{"ipam": ipam, "dns": map[string]any{"nameservers": []string{"10.1.1.1"}}})
	if r := n.add("e", nettest.NewNS(t), dns); len(r.DNS.Search) != 0 || r.DNS.Nameservers[0] != "10.1.1.1" {
		t.Errorf("%s", r.raw)
	}
}

// TestNoAddresses: without ipam there is a link and nothing else.
func TestNoAddresses(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"ipam": nil})
	var c map[string]any
	ok(t, json.Unmarshal([]byte(conf), &c))
	c["ipam"] = map[string]any{"dataDir": n.data}
	data, err := json.Marshal(c)
	ok(t, err)
	pod := nettest.NewNS(t)
	r := n.add("c", pod, string(data))
	if len(r.IPs) != 0 || len(r.Interfaces) != 3 || len(r.Routes) != 0 {
		t.Errorf("%s", r.raw)
	}
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, string(data), r.raw)})
	n.del("c", string(data))
	n.clean("br0")
}

// TestMTUOfTheUplink: a node whose way out carries less gives its pods no more.
func TestMTUOfTheUplink(t *testing.T) {
	n := newNode(t)
	n.outside(1380)
	r := n.add("c", nettest.NewNS(t), n.conf(nil))
	at(t, r.Interfaces[2].Sandbox, func(h *netutil.Handle) {
		if l, err := h.Link("eth0"); err != nil || l.MTU != 1380 {
			t.Errorf("%+v, %v", l, err)
		}
	})
}

// outside connects the node to a second one, by a link and a default route, and returns its namespace. Its
// address is 192.0.2.9 and fd99::9, the node's 192.0.2.1 and fd99::1.
func (n *node) outside(mtu int) string {
	n.t.Helper()
	out := nettest.NewNS(n.t)
	ns, err := netutil.OpenNS(out)
	ok(n.t, err)
	defer func() { _ = ns.Close() }()
	setup := func(h *netutil.Handle, name, v4, v6 string) int {
		l, err := h.Link(name)
		ok(n.t, err)
		ok(n.t, h.SetSysctls(netutil.Sysctl{Key: "ipv6/conf/" + name + "/accept_dad", Value: "0"}))
		ok(n.t, h.SetLink(l.Index, netutil.Change{Up: true}))
		ok(n.t, h.AddAddr(l.Index, netip.MustParsePrefix(v4)))
		ok(n.t, h.AddAddr(l.Index, netip.MustParsePrefix(v6)))
		return l.Index
	}
	at(n.t, n.ns, func(h *netutil.Handle) {
		ok(n.t, h.AddVeth(netutil.Veth{Name: "uplink", MTU: mtu, Peer: "uplink", PeerNS: ns}))
		index := setup(h, "uplink", "192.0.2.1/24", "fd99::1/64")
		ok(n.t, h.AddRoute(index, netutil.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.9")}))
		ok(n.t, h.AddRoute(index, netutil.Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd99::9")}))
	})
	at(n.t, out, func(h *netutil.Handle) { setup(h, "uplink", "192.0.2.9/24", "fd99::9/64") })
	return out
}

// TestMasquerade: the outside sees the node; pods and the node see the pod.
func TestMasquerade(t *testing.T) {
	n := newNode(t)
	out := n.outside(1500)
	pod := nettest.NewNS(t)
	conf := n.conf(nil)
	n.add("c", pod, conf)
	for to, want := range map[string]string{"192.0.2.9": "192.0.2.1", "fd99::9": "fd99::1"} {
		if seen := hello(t, pod, out, netip.MustParseAddr(to)); seen.Addr().String() != want {
			t.Errorf("to %s: seen as %s, want %s", to, seen, want)
		}
	}
	n.del("c", conf)
	n.clean("uplink", "br0")
}
