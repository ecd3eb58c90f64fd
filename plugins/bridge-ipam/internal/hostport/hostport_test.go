package hostport

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
)

// leaseOf makes a lease whose ports lead from any address and from one, of both families.
func leaseOf(network, id, link, last string, port uint16) lease.Lease {
	to := func(pod, host string) lease.Forward {
		return lease.Forward{
			Protocol: "tcp", Host: netip.AddrPortFrom(netip.MustParseAddr(host), port),
			Pod: netip.AddrPortFrom(netip.MustParseAddr(pod), 80),
		}
	}
	return lease.Lease{
		Network: network, Attachment: lease.Attachment{ContainerID: id, IfName: "eth0"}, HostLink: link,
		HostPorts: &lease.HostPorts{Link: "br0", SNAT: true, MasqAll: true, Forwards: []lease.Forward{
			to("10.88.0."+last, "0.0.0.0"), to("10.88.0."+last, "192.0.2.1"), to("fd00::"+last, "::"), to("fd00::"+last, "fd99::1"),
		}},
	}
}

func TestElements(t *testing.T) {
	l := leaseOf("net", "c", "veth1", "2", 8080)
	count := map[string]int{}
	for _, e := range elements(l) {
		count[e.in.Name]++
		if e.Comment != "veth1 net/c/eth0" || (e.claim != "") != (len(e.in.Value) > 0) {
			t.Errorf("%+v", e)
		}
	}
	for _, f := range families {
		for _, m := range f.maps() {
			want := 1
			if m.Name == "hostport-loop6" {
				want = 0
			}
			if count[m.Name] != want {
				t.Errorf("%s: %d elements, want %d", m.Name, count[m.Name], want)
			}
		}
	}
	l.HostPorts.Loopback, l.HostPorts.MasqAll = true, false
	if got := len(elements(l)); got != 9 {
		t.Errorf("with ::1, without masqAll: %d elements", got)
	}
	l.HostPorts.SNAT = false
	if got := len(elements(l)); got != 5 {
		t.Errorf("without snat: %d elements", got)
	}
	if got := elements(lease.Lease{}); got != nil {
		t.Errorf("without ports: %v", got)
	}
}

// TestOwner: names are cut off, tell networks apart as far as they reach, and cannot end a quoted text.
func TestOwner(t *testing.T) {
	long := strings.Repeat("x", 200)
	for _, c := range []struct {
		network, other string
		same           bool
	}{
		{"net", "net", true},
		{"net", "ne", false},
		{"net", "net2", false},
		{long, long, true},
		{long, long[:150], true}, // as far as it reaches
		{long, "x", false},
	} {
		owner := Owner(leaseOf(c.network, "c", "veth1", "2", 80))
		if len(owner) > maxOwner || isOf(owner, c.other) != c.same {
			t.Errorf("%s is of %s: %t", owner, c.other, !c.same)
		}
	}
	if got := Owner(leaseOf("net", "c", "", "2", 80)); !isOf(got, "net") || isOf("", "net") || isOf("foreign", "net") {
		t.Errorf("%q", got)
	}
	l := leaseOf("net", "c", "veth1", "2", 80)
	l.IfName = "a\"\n\\ü"
	if got := Owner(l); got != "veth1 net/c/a____" {
		t.Errorf("%q", got)
	}
}

func TestLifeOfHostPorts(t *testing.T) {
	peer, err := netutil.OpenNS(nettest.NewNS(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	nettest.In(t, nettest.NewNS(t), func() error {
		host, err := netutil.Host()
		if err != nil {
			return err
		}
		defer host.Close()
		scenario(t, host, peer)
		return nil
	})
}

// scenario runs on a thread inside a namespace of its own.
func scenario(t *testing.T, host *netutil.Handle, peer *netutil.NS) {
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	class := func(err error, is func(error) bool, word string) {
		t.Helper()
		if !is(err) || !strings.Contains(err.Error(), word) {
			t.Errorf("want %q: %v", word, err)
		}
	}
	ok(host.AddBridge("br0", nil, 0))
	for _, name := range []string{"va", "vb"} {
		ok(host.AddVeth(netutil.Veth{Name: name, Peer: name, PeerNS: peer}))
		l, err := host.Link(name)
		ok(err)
		ok(host.SetLink(l.Index, netutil.Change{Up: true}))
	}
	a, b := leaseOf("a", "ca", "va", "2", 80), leaseOf("b", "cb", "vb", "3", 81)
	thief := leaseOf("b", "thief", "vb", "4", 80)
	nothing := func() error { return nil }
	none := func() ([]lease.Lease, error) { return nil, nil }

	ok(Remove(a, nothing)) // nothing there is success
	ok(Tidy(host, "br0", "nosuchlink"))
	ok(Retain(host, "a", nil))
	ok(Restore(host, nil))
	class(Check(a), errdefs.IsNotFound, "rules")
	for range 2 {
		ok(Add(host, a, none))
	}
	ok(Add(host, b, none))
	ok(Check(a))
	class(Add(host, thief, none), errdefs.IsAlreadyExists, "host port tcp 0.0.0.0:80: taken by a/ca/eth0")
	ok(Remove(thief, nothing)) // takes nothing of the owner's
	ok(Check(a))

	nft, err := netutil.OpenNft(Table)
	ok(err)
	defer func() { _ = nft.Close() }()
	nft.DeleteTable()
	ok(nft.Commit())
	// Without the rules the owner's lease still keeps the thief off.
	class(Add(host, thief, func() ([]lease.Lease, error) { return []lease.Lease{a, b, thief}, nil }), errdefs.IsAlreadyExists, "a/ca/eth0")
	ok(Check(a))
	ok(Check(b))

	ok(Retain(host, "a", []lease.Lease{a}))
	ok(Check(a))
	ok(Retain(host, "a", nil))
	class(Check(a), errdefs.IsNotFound, "not in nftables map")
	ok(Check(b))
	ok(Restore(host, []lease.Lease{a, b}))
	ok(Check(a))

	ok(Remove(a, func() error { // STATUS of somebody who has read the lease sees a link that is up still
		ok(Restore(host, []lease.Lease{a, b}))
		return host.DeleteLink("va")
	}))
	for _, w := range elements(a) {
		if _, is, err := nft.Entry(w.in, w.Key); is || err != nil {
			t.Errorf("%s: an entry of a pod that is gone, %v", w.in.Name, err)
		}
	}
	nft.AddEntries(families[0].any, elements(a)[0].Entry) // as of a DEL that was killed
	ok(nft.Commit())
	ok(Add(host, thief, none)) // by now its owner is dead
	ok(Check(thief))
	class(Check(a), func(err error) bool { return err != nil }, "leads elsewhere")
	ok(Remove(a, nothing))
	ok(Check(thief))
	ok(Tidy(host, "br0"))
	ok(Check(b))
	if v, err := host.Sysctl("ipv4/conf/br0/route_localnet"); v != "1" || err != nil {
		t.Errorf("route_localnet %q, %v", v, err)
	}
	ok(Remove(b, nothing))
	ok(Remove(thief, nothing))
	ok(Tidy(host, "br0"))
	if v, err := host.Sysctl("ipv4/conf/br0/route_localnet"); v != "0" || err != nil {
		t.Errorf("route_localnet %q, %v", v, err)
	}
	nft.DeleteTable()
	class(nft.Commit(), errdefs.IsNotFound, Table)
}
