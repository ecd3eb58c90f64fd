package bridgeipam_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestFlowsOfEarlierOwners: whoever sends to an address after its owner is gone has a flow, and the next owner must not
// meet it. Before the first owner there is nothing to forget.
func TestFlowsOfEarlierOwners(t *testing.T) {
	n := newNode(t)
	n.add("keep", nettest.NewNS(t), n.conf(nil)) // flows are tracked from here on
	send := func(to netip.Addr) {
		t.Helper()
		nettest.In(t, n.ns, func() error {
			c, err := net.Dial("udp", netip.AddrPortFrom(to, 9).String())
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("x"))
			ok(t, c.Close())
			return err
		})
		if n.flows(to) != 1 {
			t.Fatalf("%d flows to %s", n.flows(to), to)
		}
	}
	ips := []string{"10.77.0.70", "fd77::70"}
	conf := n.conf(map[string]any{"runtimeConfig": map[string]any{"ips": ips}})
	for i, left := range []int{1, 0, 0} {
		for _, ip := range ips {
			send(netip.MustParseAddr(ip))
		}
		n.add("c", nettest.NewNS(t), conf)
		for _, ip := range ips {
			if got := n.flows(netip.MustParseAddr(ip)); got != left {
				t.Errorf("owner %d: %d flows to %s, want %d", i, got, ip, left)
			}
		}
		n.del("c", conf)
	}
}
