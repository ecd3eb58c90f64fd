package guard

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

func port(i int) Port {
	return Port{
		Link: fmt.Sprintf("veth%d", i), MAC: net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}, CheckMAC: true, CheckAddrs: true,
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd00::%x", i))},
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 200)
	if of(long+"a").frames == of(long+"b").frames || len(of(long).addrPorts.Name) > 80 {
		t.Error("long names")
	}
	seen := map[string]bool{}
	for _, network := range []string{"a", "b", "a-", "a b"} {
		for _, s := range of(network).sets() {
			if seen[s.Name] {
				t.Errorf("%s twice", s.Name)
			}
			seen[s.Name] = true
		}
	}
}

func TestLinkLocal(t *testing.T) {
	mac, err := net.ParseMAC("0a:58:0a:4d:00:02")
	if got := linkLocal(mac); err != nil || got.String() != "fe80::858:aff:fe4d:2" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestLifeOfAGuard(t *testing.T) {
	nettest.In(t, nettest.NewNS(t), func() error { scenario(t); return nil })
}

// scenario runs on a thread inside a namespace of its own.
func scenario(t *testing.T) {
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	missing := func(err error) {
		t.Helper()
		if !errdefs.IsNotFound(err) {
			t.Errorf("want not found: %v", err)
		}
	}
	ok(Usable())
	missing(Add("a", port(1)))
	missing(Check("a", port(1)))
	ok(Remove("a", port(1))) // nothing there is success
	ok(Restore("a", nil))
	for range 2 {
		ok(Restore("a", []Port{port(1), port(2)}))
	}
	ok(Restore("b", []Port{port(3)}))
	ok(Add("a", port(4)))
	ok(Add("a", port(4)))
	ok(Check("a", port(4)))
	ok(Restore("a", []Port{port(1), port(4)})) // a port more, a port less
	ok(Check("a", port(1)))
	missing(Check("a", port(2)))
	half := port(1)
	half.Addrs = half.Addrs[:1]
	ok(Remove("a", half))
	missing(Check("a", port(1)))
	ok(Remove("a", port(1))) // some of it is gone already
	for s, keys := range of("a").elements([]Port{port(1)}) {
		for _, k := range keys {
			nft, err := open()
			ok(err)
			if has, err := nft.HasPort(s, k); has || err != nil {
				t.Errorf("%s still in %s, %v", k, s.Name, err)
			}
			ok(nft.Close())
		}
	}
	var many []Port
	for i := range 1500 { // more than one message holds
		many = append(many, port(i))
	}
	ok(Restore("a", many))
	ok(Check("a", port(1499)))
	ok(Restore("a", nil))
	missing(Check("a", port(1)))
	ok(Check("b", port(3)))
	ok(Restore("b", nil))
	nft, err := open()
	ok(err)
	nft.DeleteTable() // it went with the last chain
	missing(nft.Commit())
	ok(nft.Close())
}

// BenchmarkAdd: one port beside n others.
func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		b.Run(fmt.Sprintf("beside%d", n), func(b *testing.B) {
			nettest.In(b, nettest.NewNS(b), func() error {
				var ports []Port
				for i := range n {
					ports = append(ports, port(i))
				}
				if err := Restore("a", ports); err != nil {
					return err
				}
				for b.Loop() {
					if err := Add("a", port(n)); err != nil {
						return err
					}
					if err := Remove("a", port(n)); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}
