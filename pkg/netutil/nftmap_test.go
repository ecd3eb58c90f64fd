package netutil

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

func TestTuple(t *testing.T) {
	got := Tuple{}.Link("br0").Addr(netip.MustParseAddr("10.0.0.1")).Protocol(6).Port(0x1234)
	want := append(append([]byte("br0"), make([]byte, 13)...), 10, 0, 0, 1, 6, 0, 0, 0, 0x12, 0x34, 0, 0)
	if !slices.Equal(got, want) || got.LinkOf() != "br0" {
		t.Errorf("%v", got)
	}
	if long := (Tuple{}).Link("0123456789abcdefgh"); len(long) != 16 || long.LinkOf() != "0123456789abcde" {
		t.Errorf("%v", long)
	}
}

// inTable hands a table to f, on a thread inside a namespace of its own.
func inTable(t *testing.T, f func(nft *Nft)) {
	t.Helper()
	nettest.In(t, nettest.NewNS(t), func() error {
		nft, err := OpenNft("t")
		if err != nil {
			return err
		}
		f(nft)
		return nft.Close()
	})
}

// TestMaps: entries of a map and of a set, more than one message takes.
func TestMaps(t *testing.T) {
	inTable(t, func(nft *Nft) {
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		m := Map{Name: "m", Key: []Kind{KindProtocol, KindAddr6, KindPort}, Value: []Kind{KindAddr6, KindPort}}
		set := Map{Name: "s", Key: []Kind{KindLink, KindAddr4}}
		addr := netip.MustParseAddr("fd00::1")
		key := func(port int) Tuple { return Tuple{}.Protocol(6).Addr(addr).Port(uint16(port)) }
		for range 2 {
			nft.AddTable()
			nft.AddMap(m)
			nft.AddMap(set)
			ok(nft.Commit())
		}
		var many []Entry
		for i := range 3 * perMessage {
			many = append(many, Entry{Key: key(i), Value: Tuple{}.Addr(addr).Port(uint16(i)), Comment: fmt.Sprint("number ", i)})
		}
		for range 2 {
			nft.AddEntries(m, many...)
			ok(nft.Commit())
		}
		list, err := nft.Entries(m)
		if err != nil || len(list) != len(many) {
			t.Errorf("%d entries, %v", len(list), err)
		}
		if e, found, err := nft.Entry(m, key(77)); !found || err != nil || e.Comment != "number 77" ||
			!slices.Equal(e.Key, key(77)) || !slices.Equal(e.Value, many[77].Value) {
			t.Errorf("%+v, %t, %v", e, found, err)
		}
		nft.AddEntries(m, Entry{Key: key(77), Value: Tuple{}.Addr(addr).Port(1)})
		if err := nft.Commit(); err == nil {
			t.Error("an entry was replaced")
		}
		nft.DeleteEntries(m, many[77])
		nft.AddEntries(m, Entry{Key: key(77), Value: Tuple{}.Addr(addr).Port(1), Comment: "new"})
		ok(nft.Commit())
		if e, found, err := nft.Entry(m, key(77)); !found || err != nil || e.Comment != "new" {
			t.Errorf("%+v, %t, %v", e, found, err)
		}
		nft.DeleteEntries(m, many...)
		ok(nft.Commit())
		if _, found, err := nft.Entry(m, key(77)); found || err != nil {
			t.Errorf("%t, %v", found, err)
		}
		nft.DeleteEntries(m, many[0])
		if err := nft.Commit(); !errdefs.IsNotFound(err) {
			t.Errorf("want not found: %v", err)
		}
		nft.AddEntries(set, Entry{Key: Tuple{}.Link("br0").Addr(netip.MustParseAddr("10.0.0.1"))})
		ok(nft.Commit())
		if list, err := nft.Entries(set); err != nil || len(list) != 1 || list[0].Key.LinkOf() != "br0" {
			t.Errorf("%v, %v", list, err)
		}
		nft.DeleteMap(set)
		ok(nft.Commit())
		if _, found, err := nft.Entry(set, Tuple{}.Link("br0").Addr(netip.MustParseAddr("10.0.0.1"))); found || err != nil {
			t.Errorf("want not found: %v", err)
		}
		if _, err := nft.Entries(set); !errdefs.IsNotFound(err) {
			t.Errorf("want not found: %v", err)
		}
	})
}

func TestRuleCounts(t *testing.T) {
	inTable(t, func(nft *Nft) {
		if counts, err := nft.RuleCounts(); err != nil || len(counts) != 0 {
			t.Errorf("without a table: %v, %v", counts, err)
		}
		nft.AddTable()
		nft.AddChain("b")
		nft.AddHooked("a", FilterPrerouting(-300))
		nft.AddRule("a", "a word", ToThisNode(), Jump("b"))
		nft.AddRule("a", "", IsFamily(true), IsIn(FieldSource6, netip.MustParsePrefix("fd00::/7")), Drop())
		nft.AddRule("b", "", NotFromLink("lo"), Return())
		if err := nft.Commit(); err != nil {
			t.Error(err)
		}
		if counts, err := nft.RuleCounts(); err != nil || fmt.Sprint(counts) != "map[a:2 b:1]" {
			t.Errorf("%v, %v", counts, err)
		}
	})
}

func TestLoopback6(t *testing.T) {
	inNS(t, func(t *testing.T, h *Handle, _ *NS) {
		if err := h.AddBridge("br0", nil, 0); err != nil {
			t.Error(err)
		}
		br, err := h.Link("br0")
		if err != nil {
			t.Error(err)
		}
		if err := h.SetLink(br.Index, Change{Up: true}); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := h.AddLoopback6(br.Index); err != nil {
				t.Error(err)
			}
		}
		for range 2 {
			if err := h.DeleteLoopback6(br.Index); err != nil {
				t.Error(err)
			}
		}
		addrs, err := h.NodeAddrs(true)
		if err != nil || !slices.Contains(addrs, netip.IPv6Loopback()) {
			t.Errorf("%v, %v", addrs, err)
		}
	})
}
