package bridgeipam_test

import (
	"testing"

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
