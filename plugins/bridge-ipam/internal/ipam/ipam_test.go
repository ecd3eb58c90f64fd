package ipam

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func mustRange(t testing.TB, subnet, first, last, gateway string) Range {
	t.Helper()
	r, err := NewRange(netip.MustParsePrefix(subnet), addr(first), addr(last), addr(gateway))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestNewRange(t *testing.T) {
	for _, c := range []struct {
		subnet, first, last, gateway string
		want                         string // first-last gateway, or a part of the error
	}{
		{"10.1.2.0/24", "", "", "", "10.1.2.1-10.1.2.254 10.1.2.1"},
		{"10.1.2.0/24", "10.1.2.10", "10.1.2.20", "10.1.2.254", "10.1.2.10-10.1.2.20 10.1.2.254"},
		{"10.1.2.0/24", "10.1.2.0", "10.1.2.255", "", "10.1.2.1-10.1.2.254 10.1.2.1"},
		{"10.1.2.0/30", "", "", "", "10.1.2.1-10.1.2.2 10.1.2.1"},
		{"fd00::/64", "", "", "", "fd00::1-fd00::ffff:ffff:ffff:ffff fd00::1"},
		{"fd00::/126", "", "", "fd00::2", "fd00::1-fd00::3 fd00::2"},
		{"255.255.255.0/24", "", "", "", "255.255.255.1-255.255.255.254 255.255.255.1"},
		{"10.1.2.0/31", "", "", "", "too small"},
		{"10.1.2.0/32", "", "", "", "too small"},
		{"fd00::/127", "", "", "", "too small"},
		{"10.1.2.1/24", "", "", "", "host bits are set, the network is 10.1.2.0/24"},
		{"10.1.2.0/24", "10.1.3.1", "", "", "rangeStart 10.1.3.1: not in subnet"},
		{"10.1.2.0/24", "", "10.1.3.1", "", "rangeEnd 10.1.3.1: not in subnet"},
		{"10.1.2.0/24", "10.1.2.9", "10.1.2.8", "", "after rangeEnd"},
		{"10.1.2.0/24", "10.1.2.255", "", "", "after rangeEnd"},
		{"10.1.2.0/24", "fd00::1", "", "", "not in subnet"},
		{"10.1.2.0/24", "", "", "fd00::1", "gateway fd00::1: not of the family"},
	} {
		r, err := NewRange(netip.MustParsePrefix(c.subnet), addr(c.first), addr(c.last), addr(c.gateway))
		got := r.First.String() + "-" + r.Last.String() + " " + r.Gateway.String()
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%+v: %q", c, got)
		}
	}
	if _, err := NewRange(netip.Prefix{}, addr(""), addr(""), addr("")); err == nil {
		t.Error("no subnet: no error")
	}
}

func TestCheckSets(t *testing.T) {
	a := mustRange(t, "10.1.0.0/24", "", "", "")
	low := mustRange(t, "10.1.0.0/24", "", "10.1.0.99", "")
	high := mustRange(t, "10.1.0.0/24", "10.1.0.100", "", "")
	wide := mustRange(t, "10.0.0.0/8", "", "", "")
	six := mustRange(t, "fd00::/64", "", "", "")
	for _, c := range []struct {
		name string
		sets []Set
		want string
	}{
		{"none", nil, ""},
		{"dual stack", []Set{{a}, {six}}, ""},
		{"parts of one subnet", []Set{{low, high}}, ""},
		{"parts in two sets", []Set{{low}, {high}}, ""},
		{"empty", []Set{{a}, {}}, "range set 1: empty"},
		{"families", []Set{{a, six}}, "IPv4 and IPv6"},
		{"in a set", []Set{{a, low}}, "overlap"},
		{"across", []Set{{low}, {six}, {high, wide}}, "overlap"},
	} {
		err := CheckSets(c.sets)
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestNextGoesRound(t *testing.T) {
	s := Set{
		mustRange(t, "10.1.0.0/24", "10.1.0.1", "10.1.0.3", ""), // .1 is the gateway
		mustRange(t, "10.2.0.0/24", "10.2.0.8", "10.2.0.9", "10.2.0.9"),
	}
	free := func(netip.Addr) bool { return false }
	last := netip.Addr{}
	for i, want := range []string{"10.1.0.2", "10.1.0.3", "10.2.0.8", "10.1.0.2", "10.1.0.3"} {
		got, r, err := Next(s, free, last)
		if err != nil || got.String() != want || !r.Subnet.Contains(got) {
			t.Fatalf("%d: %v in %v, %v; want %s", i, got, r, err, want)
		}
		last = got
	}
	if got, _, _ := Next(s, free, addr("192.168.0.1")); got.String() != "10.1.0.2" {
		t.Errorf("after a foreign address: %v", got)
	}
	all := func(netip.Addr) bool { return true }
	if _, _, err := Next(s, all, addr("10.1.0.2")); !errors.Is(err, ErrExhausted) {
		t.Errorf("all taken: %v", err)
	}
	if _, _, err := Next(nil, free, last); !errors.Is(err, ErrExhausted) {
		t.Errorf("no ranges: %v", err)
	}
}

func TestNextAtTheEndOfTheSpace(t *testing.T) {
	s := Set{mustRange(t, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126", "", "", "")}
	top := addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	got, _, err := Next(s, func(a netip.Addr) bool { return a == top }, top)
	if err != nil || got.String() != "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTake(t *testing.T) {
	s := Set{mustRange(t, "10.1.0.0/24", "", "", "")}
	used := addr("10.1.0.7")
	taken := func(a netip.Addr) bool { return a == used }
	for want, fine := range map[string]bool{
		"10.1.0.6": true, "10.1.0.7": false, "10.1.0.1": false, "10.1.0.255": false, "10.2.0.1": false, "fd00::1": false,
	} {
		_, err := Take(s, addr(want), taken)
		if (err == nil) != fine || (err != nil && !errors.Is(err, ErrUnavailable)) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestNextProperties draws sets and leases and checks what must always hold: an address is given exactly
// when one is free; it is in a range, is no gateway, and nobody has it; all free ones come before a repeat.
func TestNextProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		s := randomSet(t, rng)
		leases := map[netip.Addr]bool{}
		capacity := 0
		for _, r := range s {
			for a := r.First; r.Contains(a); a = a.Next() {
				if a == r.Gateway {
					continue
				}
				capacity++
				if rng.IntN(3) == 0 {
					leases[a] = true
				}
			}
		}
		taken := func(a netip.Addr) bool { return leases[a] }
		last := netip.Addr{}
		if rng.IntN(2) == 0 {
			last = s[rng.IntN(len(s))].Last
		}
		for len(leases) < capacity {
			a, r, err := Next(s, taken, last)
			if err != nil || leases[a] || !r.Contains(a) || a == r.Gateway {
				t.Fatalf("round %d: %v of %v, %v", round, a, r, err)
			}
			leases[a], last = true, a
		}
		if a, _, err := Next(s, taken, last); !errors.Is(err, ErrExhausted) {
			t.Fatalf("round %d: full, yet %v, %v", round, a, err)
		}
	}
}

func randomSet(t testing.TB, rng *rand.Rand) Set {
	var s Set
	for i := range 1 + rng.IntN(3) {
		base := netip.AddrFrom4([4]byte{10, byte(i), 0, 0})
		bits := 24 + rng.IntN(7)
		r, err := NewRange(netip.PrefixFrom(base, bits), netip.Addr{}, netip.Addr{}, netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		s = append(s, r)
	}
	return s
}
