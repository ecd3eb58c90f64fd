package bridgeipam_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil/nettest"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/guard"
)

// BenchmarkFrame measures one frame from pod to pod through the bridge: without checks, with those of the two
// pods, and with those of thousands beside them.
func BenchmarkFrame(b *testing.B) {
	for _, others := range []int{-1, 0, 1000, 5000} {
		name := fmt.Sprintf("checked/others=%d", others)
		if others < 0 {
			name = "unchecked"
		}
		b.Run(name, func(b *testing.B) { benchFrame(b, others) })
	}
}

func benchFrame(b *testing.B, others int) {
	n := newNode(b)
	conf := n.conf(map[string]any{"macspoofchk": others >= 0})
	pods := []string{nettest.NewNS(b), nettest.NewNS(b)}
	first, second := n.add("a", pods[0], conf), n.add("b", pods[1], conf)
	us, them := identityOf(b, first), identityOf(b, second)
	var ports []guard.Port
	for i, r := range []result{first, second} {
		id := []identity{us, them}[i]
		ports = append(ports, guard.Port{Link: r.Interfaces[1].Name, MAC: id.mac, Addrs: []netip.Addr{id.v4, id.v6}, CheckMAC: true, CheckAddrs: true})
	}
	for i := range others {
		ports = append(ports, guard.Port{
			Link: fmt.Sprintf("other%d", i), MAC: net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}, CheckMAC: true, CheckAddrs: true,
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
		})
	}
	if others > 0 {
		nettest.In(b, n.ns, func() error { return guard.Restore("net", ports) })
	}
	hello(b, pods[1], pods[0], us.v4) // the bridge knows both
	from := tap(b, pods[0], "eth0")
	frame := ether(them.mac, us.mac, 0x0800, ip4(us.v4, them.v4, unix.IPPROTO_UDP, udp(9, 9, make([]byte, 1400))))
	for b.Loop() {
		from.send(frame)
	}
}
