package hostport

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
)

// BenchmarkAdd measures the kernel's part of one host port of both families, beside many.
func BenchmarkAdd(b *testing.B) {
	for _, beside := range []int{0, 1000, 10000} {
		b.Run(fmt.Sprintf("beside=%d", beside), func(b *testing.B) {
			peer, err := netutil.OpenNS(nettest.NewNS(b))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = peer.Close() }()
			nettest.In(b, nettest.NewNS(b), func() error { return benchAdd(b, peer, beside) })
		})
	}
}

func benchAdd(b *testing.B, peer *netutil.NS, beside int) error {
	host, err := netutil.Host()
	if err != nil {
		return err
	}
	defer host.Close()
	if err := host.AddBridge("br0", nil, 0); err != nil {
		return err
	}
	for _, name := range []string{"va", "vb"} {
		if err := host.AddVeth(netutil.Veth{Name: name, Peer: name, PeerNS: peer}); err != nil {
			return err
		}
	}
	none := func() ([]lease.Lease, error) { return nil, nil }
	others := leaseOf("net", "b", "vb", "3", 81)
	for i := range beside {
		f := others.HostPorts.Forwards[0]
		f.Host = netip.AddrPortFrom(f.Host.Addr(), uint16(1000+i))
		others.HostPorts.Forwards = append(others.HostPorts.Forwards, f)
	}
	if err := Add(host, others, none); err != nil {
		return err
	}
	own := leaseOf("net", "a", "va", "2", 80)
	own.HostPorts.Forwards = []lease.Forward{own.HostPorts.Forwards[0], own.HostPorts.Forwards[2]}
	for b.Loop() {
		if err := Add(host, own, none); err != nil {
			return err
		}
		b.StopTimer()
		if err := Remove(own, func() error { return nil }); err != nil {
			return err
		}
		b.StartTimer()
	}
	return nil
}
