// Package guard keeps the pods of a network from speaking as somebody else: frames with another MAC than
// their own, and IPv4, IPv6, ARP and neighbour discovery with another address than their own, end at the
// port that they come in by. So do router advertisements, DHCP servers' answers and multicast queries.
//
// In one nftables table of family bridge, each network has chains whose rules look up port and MAC, or port
// and address, in sets. A pod is a few elements; the cost of a frame and of a change does not grow with the
// number of pods. The ports of one network never meet the rules of another beyond two look-ups.
//
// The hook is the bridge's and not the port's ingress: what a queue redirects (see package shaper) comes
// back behind a port's ingress hooks, and each port there would be one more hook to register. Frames for
// 01:80:c2:00:00:0x pass by it: they go nowhere, but a bridge learns from them too, unless it is told not to.
//
// Chains come with the first pod and go with the last, the table with its last chain, all under the lock of
// the network namespace. Crash: every change is one transaction of the kernel.
package guard

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
)

// Table is the name of the table, of family bridge.
const Table = "bridge-ipam"

// maxShown is how much of a network's name is shown in the names of its chains.
const maxShown = 40

// Port is one pod's, what it may speak as, and which of it is checked.
type Port struct {
	Link                 string
	MAC                  net.HardwareAddr
	Addrs                []netip.Addr // and the link-local one that follows from the MAC
	CheckMAC, CheckAddrs bool
}

// elements is what a network's sets hold.
type elements map[netutil.PortSet][]netutil.PortKey

func (n names) elements(ports []Port) elements {
	e := elements{}
	for _, s := range n.sets() {
		e[s] = nil
	}
	add := func(s netutil.PortSet, k netutil.PortKey) { e[s] = append(e[s], k) }
	for _, p := range ports {
		if p.CheckMAC {
			add(n.macPorts, netutil.PortKey{Port: p.Link})
			add(n.macs, netutil.PortKey{Port: p.Link, MAC: p.MAC})
		}
		if !p.CheckAddrs {
			continue
		}
		add(n.addrPorts, netutil.PortKey{Port: p.Link})
		for _, a := range append(slices.Clone(p.Addrs), linkLocal(p.MAC)) {
			if a.Is4() {
				add(n.addrs4, netutil.PortKey{Port: p.Link, Addr: a})
			} else {
				add(n.addrs6, netutil.PortKey{Port: p.Link, Addr: a})
			}
		}
	}
	return e
}

// linkLocal is the address that an interface makes of its MAC (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}

// names are the chains and sets of one network.
type names struct {
	frames               string // at the hook
	addr, arp, ip4, ip6  string
	macPorts, addrPorts  netutil.PortSet
	macs, addrs4, addrs6 netutil.PortSet
}

func of(network string) names {
	sum := sha256.Sum256([]byte(network))
	p := network[:min(len(network), maxShown)] + "-" + hex.EncodeToString(sum[:5]) + "-"
	set := func(name string, keys netutil.PortKeys) netutil.PortSet {
		return netutil.PortSet{Name: p + name, Keys: keys}
	}
	return names{
		frames: p + "frames", addr: p + "addr", arp: p + "arp", ip4: p + "ip4", ip6: p + "ip6",
		macPorts: set("mac-ports", netutil.Ports), addrPorts: set("addr-ports", netutil.Ports),
		macs: set("macs", netutil.PortMACs), addrs4: set("addrs4", netutil.PortAddrs4), addrs6: set("addrs6", netutil.PortAddrs6),
	}
}

// chains stand in the order in which they can be deleted: none refers to an earlier one.
func (n names) chains() []string { return []string{n.frames, n.addr, n.arp, n.ip4, n.ip6} }

func (n names) sets() []netutil.PortSet {
	return []netutil.PortSet{n.macPorts, n.addrPorts, n.macs, n.addrs4, n.addrs6}
}

func open() (*netutil.Nft, error) { return netutil.OpenNftBridge(Table) }

// Add guards a port by chains that are there. Without them it is ErrNotFound: Restore is next.
func Add(network string, p Port) error {
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	for s, keys := range of(network).elements([]Port{p}) {
		nft.AddPorts(s, keys...)
	}
	return nft.Commit()
}

// Remove takes a port out; gone is success.
func Remove(network string, p Port) error {
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	elements := of(network).elements([]Port{p})
	for s, keys := range elements {
		nft.DeletePorts(s, keys...)
	}
	if err = nft.Commit(); !errdefs.IsNotFound(err) {
		return err
	}
	// One that is missing kept the others in: each by itself, then.
	var faults []error
	for s, keys := range elements {
		for _, k := range keys {
			nft.DeletePorts(s, k)
			faults = append(faults, ignoreMissing(nft.Commit()))
		}
	}
	return errors.Join(faults...)
}

func ignoreMissing(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Restore makes a network guard these ports and no others, whatever became of its chains. The caller keeps
// others from working on the same network.
func Restore(network string, ports []Port) error {
	return netutil.EditNft(open, func(nft *netutil.Nft) error { return of(network).restore(nft, ports) })
}

func (n names) restore(nft *netutil.Nft, ports []Port) error {
	there, others, err := n.find(nft)
	if err != nil {
		return err
	}
	if there == len(n.chains()) && len(ports) > 0 {
		if same, err := n.intact(nft, ports); err != nil || same {
			return err
		}
	}
	// One transaction: no frame passes between the old rules and the new.
	if there > 0 {
		n.delete(nft)
	}
	switch {
	case len(ports) > 0:
		n.create(nft, ports)
	case there > 0 && others == 0:
		nft.DeleteTable()
	case there == 0:
		return nil
	}
	return nft.Commit()
}

// find counts the chains of the network and of others.
func (n names) find(nft *netutil.Nft) (there, others int, err error) {
	chains, err := nft.Chains()
	if err != nil {
		return 0, 0, err
	}
	ours := map[string]bool{}
	for _, c := range n.chains() {
		ours[c] = true
	}
	for _, c := range chains {
		if ours[c] {
			there++
		} else {
			others++
		}
	}
	return there, others, nil
}

// delete queues the end of all that create makes; what is missing of it is made first, so that nothing fails.
func (n names) delete(nft *netutil.Nft) {
	n.declare(nft)
	for _, c := range n.chains() {
		nft.DeleteChain(c)
	}
	for _, s := range n.sets() {
		nft.DeletePortSet(s)
	}
}

func (n names) declare(nft *netutil.Nft) {
	nft.AddTable()
	for _, s := range n.sets() {
		nft.AddPortSet(s)
	}
	nft.AddFrameChain(n.frames)
	for _, c := range []string{n.addr, n.arp, n.ip4, n.ip6} {
		nft.AddChain(c)
	}
}

func (n names) create(nft *netutil.Nft, ports []Port) {
	n.declare(nft)
	for s, keys := range n.elements(ports) {
		nft.AddPorts(s, keys...)
	}
	for _, r := range n.rules() {
		nft.AddRule(r.chain, r.comment, append(slices.Clip(r.matches), r.verdict)...)
	}
}

// intact says whether rules and elements are as create makes them.
func (n names) intact(nft *netutil.Nft, ports []Port) (bool, error) {
	if err := n.checkRules(nft); err != nil {
		return false, ignoreMissing(err)
	}
	for s, keys := range n.elements(ports) {
		same, err := nft.HasPorts(s, keys...)
		if err != nil || !same {
			return false, ignoreMissing(err)
		}
	}
	return true, nil
}

func (n names) checkRules(nft *netutil.Nft) error {
	want := map[string]int{}
	for _, r := range n.rules() {
		want[r.chain]++
	}
	for chain, count := range want {
		have, err := nft.Rules(chain)
		if err == nil && have != count {
			err = errdefs.ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("rules of nftables chain %s: %w", chain, err)
		}
	}
	return nil
}

// Check says what is missing of a port's guard; nil when nothing is.
func Check(network string, p Port) error {
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	n := of(network)
	if err := n.checkRules(nft); err != nil {
		return err
	}
	for s, keys := range n.elements([]Port{p}) {
		for _, k := range keys {
			has, err := nft.HasPort(s, k)
			if err != nil {
				return err
			}
			if !has {
				return fmt.Errorf("%s in nftables set %s: %w", k, s.Name, errdefs.ErrNotFound)
			}
		}
	}
	return nil
}

// Usable says whether the kernel takes requests for nftables on bridges.
func Usable() error {
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	_, err = nft.Chains()
	return err
}
