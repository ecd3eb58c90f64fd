package netutil

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// inNS runs the test's kernel work in a namespace of its own, with a second one for peers.
func inNS(t *testing.T, f func(t *testing.T, h *Handle, peer *NS)) {
	t.Helper()
	here, err := OpenNS(nettest.NewNS(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = here.Close() }()
	peer, err := OpenNS(nettest.NewNS(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	h, err := here.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	f(t, h, peer)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenNSRefusesWhatIsNone(t *testing.T) {
	nettest.RequireRoot(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	fifo := filepath.Join(dir, "fifo")
	ok(t, syscall.Mkfifo(fifo, 0o600))
	for path, want := range map[string]error{
		file: errdefs.ErrInvalidArgument, fifo: errdefs.ErrInvalidArgument, dir: errdefs.ErrInvalidArgument,
		"/proc/self/ns/mnt": errdefs.ErrInvalidArgument, dir + "/none": errdefs.ErrNotFound, "": errdefs.ErrNotFound,
	} {
		if _, err := OpenNS(path); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", path, err, want)
		}
	}
	own, err := OpenNS(threadNS)
	ok(t, err)
	if same, err := own.IsCurrent(); !same || err != nil {
		t.Errorf("own: %v, %v", same, err)
	}
	ok(t, own.Close())
}

func TestDoReturnsAndRestores(t *testing.T) {
	before, err := InodeAt(threadNS)
	if err != nil {
		nettest.RequireRoot(t)
	}
	ns, err := OpenNS(nettest.NewNS(t))
	ok(t, err)
	var inside uint64
	fault := errors.New("f's own")
	err = ns.Do(func() error {
		inside, _ = InodeAt(threadNS)
		return fault
	})
	if !errors.Is(err, fault) || inside != ns.Inode() {
		t.Errorf("%v, inside %d, want %d", err, inside, ns.Inode())
	}
	for range 20 { // on whatever thread
		if now, err := InodeAt(threadNS); err != nil || now != before {
			t.Errorf("now in %d, %v", now, err)
		}
	}
	ok(t, ns.Close())
}

func TestVethBridge(t *testing.T) {
	inNS(t, func(t *testing.T, h *Handle, peer *NS) {
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		ok(t, h.AddBridge("br0", mac, 1400))
		if err := h.AddBridge("br0", mac, 1400); !errdefs.IsAlreadyExists(err) {
			t.Errorf("again: %v", err)
		}
		v := Veth{Name: "host0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, MTU: 1400,
			Peer: "eth0", PeerMAC: net.HardwareAddr{2, 0, 0, 0, 0, 3}, PeerNS: peer}
		ok(t, h.AddVeth(v))
		if err := h.AddVeth(v); !errdefs.IsAlreadyExists(err) {
			t.Errorf("again: %v", err)
		}
		v.Name = "host1"
		if err := h.AddVeth(v); !errdefs.IsAlreadyExists(err) { // the peer's name is taken
			t.Errorf("peer again: %v", err)
		}
		if _, err := h.Link("host1"); !errdefs.IsNotFound(err) {
			t.Errorf("half a pair: %v", err)
		}
		br, err := h.Link("br0")
		ok(t, err)
		host, err := h.Link("host0")
		ok(t, err)
		ok(t, h.SetLink(br.Index, Change{Up: true, Alias: "mine"}))
		ok(t, h.SetLink(host.Index, Change{Master: br.Index, Up: true}))
		ok(t, h.SetHairpin(host.Index))
		host, err = h.Link("host0")
		ok(t, err)
		br, err = h.LinkByIndex(br.Index)
		ok(t, err)
		if host.Master != br.Index || !host.Up || host.MTU != 1400 || host.Kind != "veth" {
			t.Errorf("%+v", host)
		}
		if br.MAC.String() != mac.String() || br.Alias != "mine" || br.Kind != "bridge" || !br.Up {
			t.Errorf("%+v", br)
		}
		if on, err := h.Hairpin(host.Index); !on || err != nil {
			t.Errorf("hairpin %v, %v", on, err)
		}
		ok(t, h.SetLink(host.Index, Change{Master: NoMaster, Down: true}))
		host, err = h.Link("host0")
		ok(t, err)
		if host.Master != 0 || host.Up {
			t.Errorf("detached: %+v", host)
		}
		for range 2 {
			ok(t, h.DeleteLink("host0"))
		}
		ph, err := peer.Handle()
		ok(t, err)
		defer ph.Close()
		if _, err := ph.Link("eth0"); !errdefs.IsNotFound(err) {
			t.Errorf("peer: %v", err)
		}
	})
}

func TestDeleteLinksTogether(t *testing.T) {
	inNS(t, func(t *testing.T, h *Handle, _ *NS) {
		for _, name := range []string{"a", "b", "c", "stays"} {
			ok(t, h.AddBridge(name, nil, 0))
		}
		ok(t, h.DeleteLinks([]string{"a", "gone", "b", "c"}))
		ok(t, h.DeleteLinks([]string{"gone", "gone too"}))
		ok(t, h.DeleteLinks(nil))
		links, err := h.Links()
		ok(t, err)
		var names []string
		for _, l := range links {
			names = append(names, l.Name)
		}
		if !slices.Contains(names, "stays") || slices.Contains(names, "a") || slices.Contains(names, "c") {
			t.Errorf("left: %v", names)
		}
	})
}

func TestAddressesAndRoutes(t *testing.T) {
	inNS(t, func(t *testing.T, h *Handle, _ *NS) {
		if mtu, err := h.UplinkMTU(); mtu != 0 || err != nil {
			t.Errorf("no uplink: %d, %v", mtu, err)
		}
		ok(t, h.AddBridge("br0", nil, 1300))
		br, err := h.Link("br0")
		ok(t, err)
		ok(t, h.SetSysctls(Sysctl{Key: "ipv6/conf/br0/accept_dad", Value: "0"},
			Sysctl{Key: "ipv6/conf/br0/no_such_key", Value: "0", Optional: true}))
		if err := h.SetSysctls(Sysctl{Key: "ipv6/conf/br0/no_such_key", Value: "0"}); !errdefs.IsNotFound(err) {
			t.Errorf("missing sysctl: %v", err)
		}
		if v, err := h.Sysctl("ipv6/conf/br0/accept_dad"); v != "0" || err != nil {
			t.Errorf("sysctl %q, %v", v, err)
		}
		ok(t, h.SetLink(br.Index, Change{Up: true}))
		v4, v6 := netip.MustParsePrefix("10.1.2.1/24"), netip.MustParsePrefix("fd00:1::1/64")
		for range 2 {
			ok(t, h.AddAddr(br.Index, v4))
			ok(t, h.AddAddr(br.Index, v6))
		}
		have, err := h.Addrs(br.Index)
		ok(t, err)
		if !slices.Contains(have, v4) || !slices.Contains(have, v6) {
			t.Errorf("addresses %v", have)
		}
		routes := []Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.2.9"), MTU: 1200},
			{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:1::9")},
			{Dst: netip.MustParsePrefix("10.9.0.0/16"), Table: 100, Priority: 7},
		}
		for _, r := range routes {
			if has, err := h.HasRoute(r); has || err != nil {
				t.Errorf("%v before: %v, %v", r, has, err)
			}
			ok(t, h.AddRoute(br.Index, r))
			ok(t, h.AddRoute(br.Index, r))
			if has, err := h.HasRoute(r); !has || err != nil {
				t.Errorf("%v: %v, %v", r, has, err)
			}
		}
		if mtu, err := h.UplinkMTU(); mtu != 1300 || err != nil {
			t.Errorf("uplink: %d, %v", mtu, err)
		}
		for range 2 {
			ok(t, h.DeleteAddr(br.Index, v4))
		}
	})
}

func TestNft(t *testing.T) {
	inNS(t, func(t *testing.T, h *Handle, _ *NS) {
		ok(t, h.do(func() error { nftScenario(t); return nil }))
	})
}

func nftScenario(t *testing.T) {
	n, err := OpenNft("netutil-test")
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = n.Close() }()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	for _, v6 := range []bool{false, true} {
		a, p := netip.MustParseAddr("10.1.2.3"), netip.MustParsePrefix("10.1.2.0/24")
		set := Set{Name: "set4"}
		if v6 {
			a, p = netip.MustParseAddr("ff00::3"), netip.MustParsePrefix("ff00::/8") // ends at the last address
			set = Set{Name: "set6", V6: true}
		}
		if _, err := n.HasAddr(set, a); !errdefs.IsNotFound(err) {
			t.Errorf("no set: %v", err)
		}
		n.AddPrefixes(set, p)
		if err := n.Commit(); !errdefs.IsNotFound(err) {
			t.Errorf("add to no set: %v", err)
		}
		n.AddTable()
		n.AddPostrouting("post")
		n.AddSet(set)
		for range 2 {
			n.AddPrefixes(set, p)
			check(n.Commit())
		}
		n.AddMasquerade("post", set, "a test")
		check(n.Commit())
		for addr, want := range map[netip.Addr]bool{a: true, p.Addr(): true, LastAddr(p): true, p.Addr().Prev(): false} {
			if has, err := n.HasAddr(set, addr); has != want || err != nil {
				t.Errorf("%s: %v, %v", addr, has, err)
			}
		}
		n.FlushSet(set)
		check(n.Commit())
		if has, err := n.HasAddr(set, a); has || err != nil {
			t.Errorf("flushed: %v, %v", has, err)
		}
	}
	if rules, err := n.Rules("post"); rules != 2 || err != nil {
		t.Errorf("%d rules, %v", rules, err)
	}
	n.DeleteChain("post")
	n.DeleteSet(Set{Name: "set4"})
	check(n.Commit())
	if chains, err := n.Chains(); len(chains) != 0 || err != nil {
		t.Errorf("chains %v, %v", chains, err)
	}
	n.DeleteTable()
	check(n.Commit())
	n.DeleteTable()
	if err := n.Commit(); !errdefs.IsNotFound(err) {
		t.Errorf("delete the table again: %v", err)
	}
}
