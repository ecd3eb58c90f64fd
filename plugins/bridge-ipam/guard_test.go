package bridgeipam_test

import (
	be "encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// identity is what a pod speaks as.
type identity struct {
	mac    net.HardwareAddr
	v4, v6 netip.Addr
	local  netip.Addr
}

func identityOf(t testing.TB, r result) identity {
	mac, err := net.ParseMAC(r.Interfaces[2].Mac)
	ok(t, err)
	local := netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
	return identity{mac: mac, v4: r.addr(0), v6: r.addr(1), local: local}
}

var (
	everyone = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes = netip.MustParseAddr("ff02::1")
	none4    = netip.MustParseAddr("0.0.0.0")
	none6    = netip.MustParseAddr("::")
	gateway4 = netip.MustParseAddr("10.77.0.1")
)

// spoof is a frame that a pod sends, with a mark at its end.
type spoof struct {
	what, kind string
	frame      func(mark []byte) []byte
}

// spoofs: ours is the pod, other the one that it lies about. Those of kind "mac" are for macspoofchk to stop,
// those of kind "addr" for ipspoofchk, "both" for both together; the others may pass.
func spoofs(ours, other identity) []spoof {
	eth := func(to, from net.HardwareAddr, kind uint16, parts ...[]byte) func([]byte) []byte {
		return func(mark []byte) []byte { return ether(to, from, kind, append(slices.Clone(parts), mark)...) }
	}
	data := func(from, to netip.Addr, head ...[]byte) func([]byte) []byte {
		kind := uint16(0x0800)
		if len(head) > 0 {
			kind = be.BigEndian.Uint16(head[0])
			head[0] = head[0][2:]
		}
		return func(mark []byte) []byte {
			return ether(everyone, ours.mac, kind, append(head, ip4(from, to, unix.IPPROTO_UDP, udp(9, 9, mark)))...)
		}
	}
	v6 := func(from, to netip.Addr, next byte, head ...byte) func([]byte) []byte {
		return func(mark []byte) []byte {
			return ether(everyone, ours.mac, 0x86dd, ip6(from, to, next, append(slices.Clone(head), mark...)))
		}
	}
	nd := func(from netip.Addr, kind byte, target netip.Addr) func([]byte) []byte {
		return v6(from, allNodes, unix.IPPROTO_ICMPV6, icmp6(kind, target, nil)...)
	}
	v4 := func(to netip.Addr, protocol byte, head ...byte) func([]byte) []byte {
		return func(mark []byte) []byte {
			return ether(everyone, ours.mac, 0x0800, ip4(ours.v4, to, protocol, append(slices.Clone(head), mark...)))
		}
	}
	from := func(mac net.HardwareAddr) func([]byte) []byte {
		return func(mark []byte) []byte {
			return ether(everyone, mac, 0x0800, ip4(ours.v4, other.v4, unix.IPPROTO_UDP, udp(9, 9, mark)))
		}
	}
	return []spoof{
		{"IPv4", "", data(ours.v4, other.v4)},
		{"IPv6", "", v6(ours.v6, other.v6, unix.IPPROTO_UDP, udp(9, 9, nil)...)},
		{"IPv6 link-local", "", v6(ours.local, other.v6, unix.IPPROTO_UDP, udp(9, 9, nil)...)},
		{"ARP request", "", eth(everyone, ours.mac, 0x0806, arp(1, ours.mac, ours.v4, other.v4))},
		{"ARP answer", "", eth(everyone, ours.mac, 0x0806, arp(2, ours.mac, ours.v4, other.v4))},
		{"ARP probe", "", eth(everyone, ours.mac, 0x0806, arp(1, ours.mac, none4, ours.v4))},
		{"neighbour solicitation", "", nd(ours.v6, 135, other.v6)},
		{"neighbour advertisement", "", nd(ours.v6, 136, ours.v6)},
		{"link-local advertisement", "", nd(ours.local, 136, ours.local)},
		{"duplicate address detection", "", nd(none6, 135, ours.v6)},
		{"multicast report", "", nd(none6, 143, none6)},
		{"ping", "", nd(ours.v6, 128, none6)},

		{"MAC of another", "mac", from(other.mac)},
		{"MAC of nobody", "mac", from(net.HardwareAddr{2, 0, 0, 0, 0, 9})},
		{"MAC in ARP", "both", eth(everyone, ours.mac, 0x0806, arp(2, other.mac, ours.v4, ours.v4))},
		{"unknown type", "addr", eth(everyone, ours.mac, 0x88b5, nil)},

		{"IPv4 of another", "addr", data(gateway4, other.v4)},
		{"IPv4 of the world", "addr", data(netip.MustParseAddr("192.0.2.1"), other.v4)},
		{"IPv4 behind VLAN 0", "addr", data(gateway4, other.v4, []byte{0x81, 0, 0, 0, 8, 0})},
		{"IPv4 behind two VLANs 0", "addr", data(gateway4, other.v4, []byte{0x81, 0, 0, 0, 0x81, 0, 0, 0, 8, 0})},
		{"IPv4 in LLC", "addr", data(gateway4, other.v4, []byte{0, 60, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0})},
		{"IPv6 of another", "addr", v6(other.v6, ours.v6, unix.IPPROTO_UDP, udp(9, 9, nil)...)},
		{"IPv6 link-local of another", "addr", v6(other.local, ours.v6, unix.IPPROTO_UDP, udp(9, 9, nil)...)},
		{"IPv6 fragment of another", "addr", v6(other.v6, ours.v6, unix.IPPROTO_FRAGMENT, unix.IPPROTO_UDP, 0, 0, 1, 0, 0, 0, 1)},
		{"gratuitous ARP for the gateway", "addr", eth(everyone, ours.mac, 0x0806, arp(2, ours.mac, gateway4, gateway4))},
		{"ARP request of another", "addr", eth(everyone, ours.mac, 0x0806, arp(1, ours.mac, other.v4, gateway4))},
		{"ARP with long addresses", "addr", eth(everyone, ours.mac, 0x0806, []byte{0, 1, 8, 0, 8, 4}, make([]byte, 30))},
		{"advertisement for another", "addr", nd(ours.v6, 136, other.v6)},
		{"solicitation of another", "addr", nd(other.v6, 135, ours.v6)},
		{"duplicate address detection of another", "addr", nd(none6, 135, other.v6)},
		{"router advertisement", "addr", nd(ours.local, 134, none6)},
		{"router advertisement behind options", "addr", v6(ours.local, allNodes, unix.IPPROTO_HOPOPTS,
			append([]byte{unix.IPPROTO_ICMPV6, 0, 1, 4, 0, 0, 0, 0}, icmp6(134, none6, nil)...)...)},
		{"redirect", "addr", nd(ours.local, 137, none6)},
		{"multicast query", "addr", nd(ours.local, 130, none6)},
		{"IGMP query", "addr", v4(netip.MustParseAddr("224.0.0.1"), unix.IPPROTO_IGMP, 0x11, 0, 0, 0, 0, 0, 0, 0)},
		{"DHCP server", "addr", v4(other.v4, unix.IPPROTO_UDP, udp(67, 68, make([]byte, 14))...)},
		{"DHCPv6 server", "addr", v6(ours.v6, allNodes, unix.IPPROTO_UDP, udp(547, 546, make([]byte, 14))...)},
	}
}

// TestSpoofChecks sends frames from one pod and looks what another pod gets: each kind with each of the
// checks, and through an ifb too, because frames take another way there.
func TestSpoofChecks(t *testing.T) {
	for name, c := range map[string]struct {
		keys  map[string]any
		stops []string
	}{
		"none":               {nil, nil},
		"macspoofchk":        {map[string]any{"macspoofchk": true}, []string{"mac", "addr", "both"}},
		"as the reference":   {map[string]any{"macspoofchk": true, "ipspoofchk": false}, []string{"mac"}},
		"ipspoofchk":         {map[string]any{"ipspoofchk": true}, []string{"addr"}},
		"with egress limits": {map[string]any{"macspoofchk": true, "egressRate": 1e9, "egressBurst": 1e6}, []string{"mac", "addr", "both"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			conf := n.conf(c.keys)
			liar, victim := nettest.NewNS(t), nettest.NewNS(t)
			ours, other := identityOf(t, n.add("liar", liar, conf)), identityOf(t, n.add("victim", victim, conf))
			n.plainBridge()
			from, to := tap(t, liar, "eth0"), tap(t, victim, "eth0")
			for i, s := range spoofs(ours, other) {
				mark, last := fmt.Appendf(nil, "spoof %08d", i), fmt.Appendf(nil, "last %08d", i)
				from.send(s.frame(mark))
				from.send(ether(everyone, ours.mac, 0x0800, ip4(ours.v4, other.v4, unix.IPPROTO_UDP, udp(9, 9, last))))
				if got, want := to.sees(mark, last), !slices.Contains(c.stops, s.kind); got != want {
					t.Errorf("%s: passed %v, want %v", s.what, got, want)
				}
			}
		})
	}
}

// plainBridge makes the bridge pass on multicast as it comes, checksums or not.
func (n *node) plainBridge() {
	n.t.Helper()
	n.ip("link", "set", "dev", "br0", "type", "bridge", "mcast_snooping", "0")
}

// TestSpoofedSourceIsNotLearned: a bridge learns sources from frames that it keeps for itself too.
func TestSpoofedSourceIsNotLearned(t *testing.T) {
	for _, checked := range []bool{false, true} {
		n := newNode(t)
		conf := n.conf(map[string]any{"macspoofchk": checked})
		liar := nettest.NewNS(t)
		r, victim := n.add("liar", liar, conf), nettest.NewNS(t)
		ours, other := identityOf(t, r), identityOf(t, n.add("victim", victim, conf))
		hello(t, victim, n.ns, gateway4) // the bridge knows the victim's port
		from, bridge := tap(t, liar, "eth0"), tap(t, n.ns, "br0")
		poisoned := false
		for i := 0; i < 20 && !poisoned; i++ { // the victim may speak just now and be learned again
			for last := range byte(16) {
				from.send(ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, last}, other.mac, 0x88cc, make([]byte, 50)))
			}
			mark := fmt.Appendf(nil, "last %08d", i)
			from.send(ether(everyone, ours.mac, 0x0800, ip4(ours.v4, gateway4, unix.IPPROTO_UDP, udp(9, 9, mark))))
			bridge.sees(mark, mark)
			poisoned = strings.Contains(n.bridge("fdb", "show", "dev", r.Interfaces[1].Name), other.mac.String())
		}
		if poisoned == checked {
			t.Errorf("check %v: the bridge takes the liar for the victim: %v", checked, poisoned)
		}
	}
}

// bridgeChains counts the chains of spoof checks.
func (n *node) bridgeChains() (count int) {
	n.t.Helper()
	nettest.In(n.t, n.ns, func() error {
		nft, err := netutil.OpenNftBridge("bridge-ipam")
		if err != nil {
			return err
		}
		defer func() { _ = nft.Close() }()
		chains, err := nft.Chains()
		count = len(chains)
		return err
	})
	return count
}

// tool runs a program on the node and returns what it prints.
func (n *node) tool(name string, args ...string) string {
	n.t.Helper()
	var out []byte
	nettest.In(n.t, n.ns, func() (err error) {
		if out, err = exec.Command(name, args...).CombinedOutput(); err != nil {
			err = fmt.Errorf("%s %v: %w: %s", name, args, err, out)
		}
		return err
	})
	return string(out)
}

func gcOf(t testing.TB, conf string, ids ...string) call {
	var c map[string]any
	ok(t, json.Unmarshal([]byte(conf), &c))
	valid := []any{}
	for _, id := range ids {
		valid = append(valid, map[string]any{"containerID": id, "ifname": "eth0"})
	}
	c["cni.dev/valid-attachments"] = valid
	data, err := json.Marshal(c)
	ok(t, err)
	return call{cmd: "GC", conf: string(data)}
}

// TestGuardComesBack: ADD of another pod, GC and STATUS each bring lost rules back, for every pod.
func TestGuardComesBack(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"macspoofchk": true})
	pod := nettest.NewNS(t)
	r := n.add("c", pod, conf)
	check := call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, n.conf(map[string]any{"macspoofchk": true, "ipMasq": false}), r.raw)}
	n.quiet(check)
	rules := n.nft("list", "table", "bridge", "bridge-ipam")
	if !strings.Contains(rules, r.Interfaces[1].Name) || !strings.Contains(rules, "router advertisement") {
		t.Errorf("nft shows:\n%s", rules)
	}
	for name, back := range map[string]func(){
		"ADD":    func() { n.add("d", nettest.NewNS(t), conf); n.del("d", conf) },
		"GC":     func() { n.quiet(gcOf(t, conf, "c")) },
		"STATUS": func() { n.quiet(call{cmd: "STATUS", conf: conf}) },
	} {
		n.nft("delete", "table", "bridge", "bridge-ipam")
		n.refused(check, 999, "spoof check")
		back()
		n.quiet(check)
		if name == "ADD" { // it sees a lost table only; a lost rule is for the others
			continue
		}
		n.nft("flush", "table", "bridge", "bridge-ipam")
		n.refused(check, 999, "spoof check", "rules")
		back()
		n.quiet(check)
		for set := range strings.SplitSeq(rules, "\n") {
			if name, isSet := strings.CutPrefix(strings.TrimSpace(set), "set "); isSet {
				n.nft("flush", "set", "bridge", "bridge-ipam", strings.TrimSuffix(name, " {"))
				n.refused(check, 999, "spoof check", "nftables set")
				back()
				n.quiet(check)
			}
		}
		if again := n.nft("list", "table", "bridge", "bridge-ipam"); again != rules {
			t.Errorf("%s: was\n%s\nis\n%s", name, rules, again)
		}
	}
	n.nft("flush", "ruleset")
	n.del("c", conf) // what is lost is gone
	n.clean("br0")
}

// TestGuardLife: DEL, a failed ADD and GC leave nothing; other pods and networks keep theirs.
func TestGuardLife(t *testing.T) {
	n := newNode(t)
	on := map[string]any{"macspoofchk": true}
	conf := n.conf(on)
	other := n.conf(map[string]any{"macspoofchk": true, "name": "other", "ipam": ranges("10.78.0.0/24")})
	plain := n.conf(map[string]any{"name": "plain", "ipam": ranges("10.79.0.0/24"), "forceAddress": true, "isGateway": false})
	pods := []string{nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)}
	n.add("a", pods[0], conf)
	b := n.add("b", pods[1], conf)
	n.add("c", pods[2], plain)
	if n.bridgeChains() != 5 {
		t.Errorf("%d chains", n.bridgeChains())
	}
	other = strings.Replace(other, `"isGateway":true`, `"isGateway":false`, 1)
	n.add("d", nettest.NewNS(t), other)
	if n.bridgeChains() != 10 {
		t.Errorf("%d chains", n.bridgeChains())
	}
	n.del("a", n.conf(nil)) // the key was taken out of the configuration meanwhile
	n.quiet(call{cmd: "CHECK", id: "b", ifName: "eth0", netns: pods[1], conf: withPrev(t, conf, b.raw)})
	if strings.Contains(n.nft("list", "table", "bridge", "bridge-ipam"), "10.77.0.2") {
		t.Error("elements of a are left")
	}
	n.quiet(gcOf(t, conf))
	if n.bridgeChains() != 5 {
		t.Errorf("%d chains, want those of the other network", n.bridgeChains())
	}
	n.del("d", other)
	if n.bridgeChains() != 0 {
		t.Errorf("%d chains", n.bridgeChains())
	}
	badDNS := ranges("10.77.0.0/24")
	badDNS["resolvConf"] = "/nonexistent"
	on["ipam"] = badDNS
	n.refused(call{cmd: "ADD", id: "e", ifName: "eth0", netns: nettest.NewNS(t), conf: n.conf(on)}, 999, "/nonexistent")
	if n.bridgeChains() != 0 {
		t.Errorf("%d chains after an ADD that failed", n.bridgeChains())
	}
	if tables := n.nft("list", "tables", "bridge"); tables != "" {
		t.Errorf("tables %s", tables)
	}
}
