package masq

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

var (
	net4 = netip.MustParsePrefix("10.88.0.0/16")
	net6 = netip.MustParsePrefix("fd00::/64")
	pod4 = netip.MustParseAddr("10.88.0.2")
	pod6 = netip.MustParseAddr("fd00::2")
)

func TestChainNames(t *testing.T) {
	a := Network{Name: "net", Subnets: []netip.Prefix{net4, net6}}
	b := Network{Name: "net", Subnets: []netip.Prefix{net6, net4}}
	if a.Chain() != b.Chain() {
		t.Error("the order of subnets makes a difference")
	}
	if c := (Network{Name: "net", Subnets: []netip.Prefix{net4}}); c.Chain() == a.Chain() || !strings.HasPrefix(c.Chain(), chainsOf("net")) {
		t.Errorf("other subnets: %s", c.Chain())
	}
	long := strings.Repeat("x", 200)
	for _, other := range []string{"net2", "ne", "net-", long + "a", long + "b"} {
		if strings.HasPrefix(a.Chain(), chainsOf(other)) {
			t.Errorf("%s looks like one of %s", a.Chain(), other)
		}
	}
	if chainsOf(long+"a") == chainsOf(long+"b") || len(chainsOf(long)) > 80 {
		t.Error("long names")
	}
}

func TestMerge(t *testing.T) {
	got := merge([]netip.Prefix{net4, netip.MustParsePrefix("10.88.1.0/24"), net4, netip.MustParsePrefix("10.89.0.0/16")})
	if len(got) != 2 || got[0] != net4 {
		t.Errorf("%v", got)
	}
}

func TestLifeOfAMasquerade(t *testing.T) {
	nettest.In(t, nettest.NewNS(t), func() error { scenario(t); return nil })
}

// scenario runs on a thread inside a namespace of its own.
func scenario(t *testing.T) {
	a := Network{Name: "a", Subnets: []netip.Prefix{net4, net6}}
	wider := Network{Name: "a", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), net4}}
	b := Network{Name: "b", Subnets: []netip.Prefix{net6}}
	both := []netip.Addr{pod4, pod6}
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
	missing(a.Ensure())
	missing(Check(a.Chain(), both))
	ok(Retain("a", nil)) // nothing there is success
	for range 2 {
		ok(a.Create())
	}
	ok(a.Ensure())
	ok(Check(a.Chain(), both))
	missing(Check(a.Chain(), []netip.Addr{netip.MustParseAddr("10.89.0.1")}))
	ok(wider.Create())
	ok(b.Create())

	nft, err := netutil.OpenNft(Table)
	ok(err)
	nft.FlushSet(subnets(a.Chain(), false))
	ok(nft.Commit())
	ok(a.Ensure()) // it looks at rules alone
	missing(Check(a.Chain(), both))
	ok(Check(a.Chain(), []netip.Addr{pod6}))
	ok(a.Create())
	ok(Check(a.Chain(), both))
	nft.FlushChain(a.Chain())
	ok(nft.Commit())
	ok(nft.Close())
	missing(a.Ensure())
	ok(a.Create())

	ok(Retain("a", map[string]bool{a.Chain(): true}))
	ok(Check(a.Chain(), both))
	missing(Check(wider.Chain(), []netip.Addr{pod4}))
	ok(Check(b.Chain(), []netip.Addr{pod6}))

	ok(Retain("a", nil))
	ok(Check(b.Chain(), []netip.Addr{pod6})) // another network is not touched
	if n := tables(t); n != 1 {
		t.Errorf("%d chains left, want that of b", n)
	}
	long := Network{Name: strings.Repeat("x", 255), Subnets: a.Subnets} // the longest that there is
	ok(long.Create())
	ok(long.Ensure())
	ok(Retain(long.Name, nil))
	ok(Retain("b", nil))
	if n := tables(t); n != 0 {
		t.Errorf("%d chains left", n)
	}
	// The table itself is gone: deleting it is an error now.
	nft, err = netutil.OpenNft(Table)
	ok(err)
	nft.DeleteTable()
	missing(nft.Commit())
	ok(nft.Close())
}

func tables(t *testing.T) int {
	nft, err := netutil.OpenNft(Table)
	if err != nil {
		t.Error(err)
		return -1
	}
	defer func() { _ = nft.Close() }()
	chains, err := nft.Chains()
	if err != nil {
		t.Error(err)
	}
	return len(chains)
}
