package bridgeipam_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestRogueRouter: without any spoof check a pod's router advertisement reaches node and pods, and changes
// no route of theirs (CVE-2020-10749). A pod that was given no way out, and so may want one, believes it:
// this shows that the advertisement is one.
func TestRogueRouter(t *testing.T) {
	n := newNode(t)
	rogue, victim, waiting := nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)
	conf := n.conf(nil)
	us := identityOf(t, n.add("rogue", rogue, conf))
	n.add("victim", victim, conf)
	n.add("waiting", waiting, n.conf(map[string]any{"ipam": ranges("10.77.0.0/24", "fd77::/64")}))
	prefix := append([]byte{3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0}, netip.MustParseAddr("fd66::").AsSlice()...)
	ra := append([]byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}, prefix...)
	packet := ip6(us.local, allNodes, unix.IPPROTO_ICMPV6, ra)
	sum := checksum6(packet)
	packet[40+2], packet[40+3] = byte(sum>>8), byte(sum)
	way := netutil.Route{Dst: netip.MustParsePrefix("::/0"), Via: us.local}
	believes := func(ns string) (has bool) {
		at(t, ns, func(h *netutil.Handle) {
			var err error
			has, err = h.HasRoute(way)
			ok(t, err)
		})
		return has
	}
	from := tap(t, rogue, "eth0")
	deadline := time.Now().Add(10 * time.Second)
	for !believes(waiting) && time.Now().Before(deadline) {
		from.send(ether(everyone, us.mac, 0x86dd, packet))
		time.Sleep(20 * time.Millisecond)
	}
	if !believes(waiting) {
		t.Fatal("the advertisement has no effect on anybody")
	}
	for name, ns := range map[string]string{"the node": n.ns, "a pod": victim} {
		if believes(ns) {
			t.Errorf("%s takes the rogue pod for a router", name)
		}
	}
}

// checksum6 is that of an ICMPv6 message whose field for it is zero (RFC 4443, 2.3).
func checksum6(packet []byte) uint16 {
	message := packet[40:]
	sum := uint32(len(message)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{packet[8:40], message} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(part[i])<<8 | uint32(part[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
