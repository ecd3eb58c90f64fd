package bridgeipam_test

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestAnnouncements: a pod announces an address only where a neighbour may remember another MAC for it, and asks for
// routers only where it may want one.
func TestAnnouncements(t *testing.T) {
	own := map[string]any{"mac": "02:00:00:00:00:07"}
	for name, c := range map[string]struct {
		conf, runtime map[string]any
		arp, nd, ra   string
	}{
		"IPv4 alone":               {conf: ranges("10.77.0.0/24"), arp: "0", nd: "0", ra: "0"},
		"IPv6 alone":               {conf: ranges("fd77::/64"), arp: "0", nd: "0", ra: "1"},
		"both":                     {conf: ranges("10.77.0.0/24", "fd77::/64"), arp: "0", nd: "1", ra: "1"},
		"two of IPv4":              {conf: ranges("10.77.0.0/24", "10.78.0.0/24"), arp: "1", nd: "0", ra: "0"},
		"a MAC that was asked for": {conf: ranges("10.77.0.0/24"), runtime: own, arp: "1", nd: "1", ra: "0"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			changes := map[string]any{"ipam": c.conf, "capabilities": map[string]any{"mac": true}}
			if c.runtime != nil {
				changes["runtimeConfig"] = c.runtime
			}
			pod := nettest.NewNS(t)
			n.add("c", pod, n.conf(changes))
			at(t, pod, func(h *netutil.Handle) {
				for key, want := range map[string]string{
					"ipv4/conf/eth0/arp_notify": c.arp, "ipv6/conf/eth0/ndisc_notify": c.nd, "ipv6/conf/eth0/accept_ra": c.ra,
				} {
					if got, err := h.Sysctl(key); got != want || err != nil {
						t.Errorf("%s: %q, %v; want %s", key, got, err, want)
					}
				}
			})
		})
	}
}

// TestWithoutIPv6: a pod with IPv4 alone has no IPv6 at its link, tells nobody anything, and the namespace's default
// for others stays what it was.
func TestWithoutIPv6(t *testing.T) {
	v6route := []any{map[string]any{"dst": "fd00::/8"}}
	for name, c := range map[string]struct {
		ipam    map[string]any
		changes map[string]any
		off     string
	}{
		"IPv4 alone":         {ranges("10.77.0.0/24"), nil, "1"},
		"routed":             {ranges("10.77.0.0/24"), map[string]any{"mode": "routed", "bridge": nil, "isGateway": nil}, "1"},
		"wanted":             {ranges("10.77.0.0/24"), map[string]any{"ipv6LinkLocal": true}, "0"},
		"a route of IPv6":    {with(ranges("10.77.0.0/24"), "routes", v6route), nil, "0"},
		"both":               {ranges("10.77.0.0/24", "fd77::/64"), nil, "0"},
		"without a gateway":  {ranges("10.77.0.0/24"), map[string]any{"isGateway": false, "isDefaultGateway": false}, "0"},
		"without an address": {map[string]any{}, map[string]any{"isGateway": false, "isDefaultGateway": false}, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			changes := map[string]any{"ipam": c.ipam}
			for key, value := range c.changes {
				changes[key] = value
			}
			pod := nettest.NewNS(t)
			n.add("c", pod, n.conf(changes))
			at(t, pod, func(h *netutil.Handle) {
				for key, want := range map[string]string{"eth0": c.off, "default": "0", "all": "0", "lo": "0"} {
					if got, err := h.Sysctl("ipv6/conf/" + key + "/disable_ipv6"); got != want || err != nil {
						t.Errorf("disable_ipv6 of %s: %q, %v; want %s", key, got, err, want)
					}
				}
				link, err := h.Link("eth0")
				ok(t, err)
				addrs, err := h.Addrs(link.Index)
				ok(t, err)
				if linkLocal := slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr().Is6() }); linkLocal != (c.off == "0") {
					t.Errorf("addresses: %v", addrs)
				}
			})
		})
	}
}

// TestJoinsBeforeUp: where a port's frames are checked it is on the bridge before it is up.
func TestJoinsBeforeUp(t *testing.T) {
	for name, changes := range map[string]map[string]any{
		"checked":  {"macspoofchk": true},
		"isolated": {"portIsolation": true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			seen := watchLinks(t, n.ns)
			r := n.add("c", nettest.NewNS(t), n.conf(changes))
			joined := false
			for _, l := range seen(r.Interfaces[1].Name) {
				joined = joined || l.MasterIndex != 0
				if l.RawFlags&unix.IFF_UP != 0 && l.MasterIndex == 0 {
					t.Errorf("up, and not on the bridge")
				}
			}
			if !joined {
				t.Error("not on the bridge")
			}
		})
	}
}

// watchLinks begins to collect what the kernel tells of links, and returns a function that ends it: what was told of one.
func watchLinks(t *testing.T, ns string) (seen func(name string) []*netlink.LinkAttrs) {
	t.Helper()
	handle, err := netns.GetFromPath(ns)
	ok(t, err)
	updates, done := make(chan netlink.LinkUpdate, 1000), make(chan struct{})
	ok(t, netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{Namespace: &handle}))
	return func(name string) []*netlink.LinkAttrs {
		at(t, ns, func(h *netutil.Handle) { ok(t, h.AddBridge("last", nil, 0)) })
		defer func() { ok(t, handle.Close()) }()
		defer close(done)
		var list []*netlink.LinkAttrs
		for u := range updates {
			if u.Attrs().Name == "last" {
				break
			}
			if strings.HasPrefix(u.Attrs().Name, name) && u.Header.Type == unix.RTM_NEWLINK {
				list = append(list, u.Attrs())
			}
		}
		return list
	}
}

// with is a copy of an object with one member changed.
func with(object map[string]any, key string, value any) map[string]any {
	object = maps.Clone(object)
	object[key] = value
	return object
}
