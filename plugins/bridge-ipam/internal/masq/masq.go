// Package masq owns the masquerade of pods: what leaves a network gets the address of the node's link.
//
// In one nftables table, each network (with its subnets) has a chain with one rule per family and sets of
// addresses that the rules refer to. An attachment is one element; the cost of a packet and of a change
// does not grow with the number of attachments. The name of a chain says network and subnets, so that a
// network whose ranges were changed gets a chain beside the old one, and nothing is ever altered in place.
//
// A chain comes with its first address and goes with its last, and the table with its last chain. Both
// happen under the lock of the network namespace. Crash: every change is one transaction of the kernel.
package masq

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
)

// Table is the name of the table, of family inet.
const Table = "bridge-ipam"

// prefix starts the name of every chain and set of this package; others may share the table.
const prefix = "masq-"

// maxShown is how much of a network's name is shown in the names of its chains.
const maxShown = 40

// Network is the masquerade of one network with given subnets.
type Network struct {
	Name    string
	Subnets []netip.Prefix
}

// Chain is the name of the network's chain; leases remember it.
func (n Network) Chain() string {
	subnets := slices.Clone(n.Subnets)
	slices.SortFunc(subnets, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	return chainsOf(n.Name) + digest(fmt.Sprint(subnets))
}

// chainsOf is how the names of all chains of a network start, and of no other network.
func chainsOf(network string) string {
	return prefix + network[:min(len(network), maxShown)] + "-" + digest(network) + "-"
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:5])
}

// sets are the sets of a chain for one family.
func sets(chain string, v6 bool) (from, inside netutil.Set) {
	family := "4"
	if v6 {
		family = "6"
	}
	return netutil.Set{Name: chain + "-pods" + family, V6: v6},
		netutil.Set{Name: chain + "-inside" + family, V6: v6, Prefixes: true}
}

// split sorts addresses by family.
func split(addrs []netip.Addr) map[bool][]netip.Addr {
	out := map[bool][]netip.Addr{}
	for _, a := range addrs {
		out[a.Is6()] = append(out[a.Is6()], a)
	}
	return out
}

// Add masquerades addresses in a chain that is there; what is there already stays. Without the chain or its
// rules it is ErrNotFound: Create is next.
func (n Network) Add(addrs []netip.Addr) error {
	nft, err := netutil.OpenNft(Table)
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	return n.add(nft, addrs)
}

func (n Network) add(nft *netutil.Nft, addrs []netip.Addr) error {
	// Looking first: a transaction that fails waits for a grace period.
	rules, err := nft.Rules(n.Chain())
	if err == nil && rules != n.families() {
		err = fmt.Errorf("rules of nftables chain %s: %w", n.Chain(), errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	return addElements(nft, n.Chain(), addrs)
}

// families counts the families of the subnets; each has one rule.
func (n Network) families() int {
	seen := map[bool]bool{}
	for _, s := range n.Subnets {
		seen[s.Addr().Is6()] = true
	}
	return len(seen)
}

func addElements(nft *netutil.Nft, chain string, addrs []netip.Addr) error {
	for v6, list := range split(addrs) {
		from, _ := sets(chain, v6)
		nft.AddAddrs(from, list...)
	}
	return nft.Commit()
}

// Create makes what is missing of table, chain, sets, rules and these addresses. The caller keeps others
// from working on the same network.
func (n Network) Create(addrs []netip.Addr) error {
	nft, err := netutil.OpenNft(Table)
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	unlock, err := netutil.LockNS()
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	chain := n.Chain()
	if err := n.add(nft, addrs); !errdefs.IsNotFound(err) {
		return err // another process was first
	}
	n.create(nft, chain, split(addrs))
	return nft.Commit()
}

func (n Network) create(nft *netutil.Nft, chain string, addrs map[bool][]netip.Addr) {
	nft.AddTable()
	nft.AddPostrouting(chain)
	nft.FlushChain(chain) // its rules may have been deleted in part
	for _, v6 := range []bool{false, true} {
		var inside []netip.Prefix
		for _, s := range n.Subnets {
			if s.Addr().Is6() == v6 {
				inside = append(inside, s)
			}
		}
		pods, subnets := sets(chain, v6)
		nft.AddSet(pods)
		nft.AddSet(subnets)
		if len(inside) == 0 {
			continue
		}
		nft.AddPrefixes(subnets, merge(inside)...)
		nft.AddMasquerade(chain, pods, subnets, "network "+n.Name)
		if len(addrs[v6]) > 0 {
			nft.AddAddrs(pods, addrs[v6]...)
		}
	}
}

// merge drops prefixes that lie in another one: the kernel refuses intervals that overlap.
func merge(list []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for i, p := range list {
		if !slices.ContainsFunc(list, func(o netip.Prefix) bool { return o != p && o.Bits() < p.Bits() && o.Contains(p.Addr()) }) &&
			!slices.Contains(list[:i], p) {
			out = append(out, p)
		}
	}
	return out
}

// Remove takes addresses out of a chain; gone is success.
func Remove(chain string, addrs []netip.Addr) error {
	nft, err := netutil.OpenNft(Table)
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	for v6, list := range split(addrs) {
		from, _ := sets(chain, v6)
		nft.DeleteAddrs(from, list...)
	}
	err = nft.Commit()
	if !errdefs.IsNotFound(err) {
		return err
	}
	// One that is missing kept the others in: each by itself, then.
	var faults []error
	for _, a := range addrs {
		from, _ := sets(chain, a.Is6())
		nft.DeleteAddrs(from, a)
		if err := nft.Commit(); !errdefs.IsNotFound(err) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// Retain makes a network masquerade the given addresses of the given chains and no others: it removes
// other elements, other chains of the network, and the table when nothing is left in it.
func Retain(network string, keep map[string][]netip.Addr) error {
	nft, err := netutil.OpenNft(Table)
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	unlock, err := netutil.LockNS()
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	chains, err := nft.Chains()
	if err != nil || len(chains) == 0 {
		return err
	}
	left := len(chains)
	for _, chain := range chains {
		if !strings.HasPrefix(chain, chainsOf(network)) {
			continue
		}
		if addrs, ok := keep[chain]; ok {
			err = retainAddrs(nft, chain, addrs)
		} else if left--; left == 0 { // with the last chain goes the table
			nft.DeleteTable()
			err = ignoreMissing(nft.Commit())
		} else {
			err = deleteChain(nft, chain)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func retainAddrs(nft *netutil.Nft, chain string, keep []netip.Addr) error {
	for _, v6 := range []bool{false, true} {
		pods, _ := sets(chain, v6)
		have, err := nft.Addrs(pods)
		if err != nil {
			return err
		}
		stale := slices.DeleteFunc(have, func(a netip.Addr) bool { return slices.Contains(keep, a) })
		if len(stale) == 0 {
			continue
		}
		nft.DeleteAddrs(pods, stale...)
		if err := ignoreMissing(nft.Commit()); err != nil {
			return err
		}
	}
	return nil
}

func deleteChain(nft *netutil.Nft, chain string) error {
	nft.DeleteChain(chain)
	for _, v6 := range []bool{false, true} {
		pods, subnets := sets(chain, v6)
		nft.DeleteSet(pods)
		nft.DeleteSet(subnets)
	}
	return ignoreMissing(nft.Commit())
}

func ignoreMissing(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Has says whether a network has any chain.
func Has(network string) (bool, error) {
	nft, err := netutil.OpenNft(Table)
	if err != nil {
		return false, err
	}
	defer func() { _ = nft.Close() }()
	chains, err := nft.Chains()
	return slices.ContainsFunc(chains, func(c string) bool { return strings.HasPrefix(c, chainsOf(network)) }), err
}

// Check says what is missing of a masquerade that was added; nil when nothing is.
func Check(chain string, addrs []netip.Addr) error {
	nft, err := netutil.OpenNft(Table)
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	if err := checkRules(nft, chain, addrs); err != nil {
		return err
	}
	for _, a := range addrs {
		from, _ := sets(chain, a.Is6())
		has, err := nft.HasAddr(from, a)
		if err != nil {
			return err
		}
		if !has {
			return fmt.Errorf("%s in nftables set %s: %w", a, from.Name, errdefs.ErrNotFound)
		}
	}
	return nil
}

// CheckRules says whether the rules that Check also asks for are there, whatever is in the sets.
func CheckRules(chain string, addrs []netip.Addr) error {
	nft, err := netutil.OpenNft(Table)
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	return checkRules(nft, chain, addrs)
}

func checkRules(nft *netutil.Nft, chain string, addrs []netip.Addr) error {
	chains, err := nft.Chains()
	if err != nil {
		return err
	}
	if !slices.Contains(chains, chain) {
		return fmt.Errorf("nftables chain %s: %w", chain, errdefs.ErrNotFound)
	}
	families := split(addrs)
	if rules, err := nft.Rules(chain); err != nil || rules < len(families) {
		return fmt.Errorf("rules of nftables chain %s: %w", chain, errors.Join(err, errdefs.ErrNotFound))
	}
	return nil
}

// Usable says whether the kernel takes requests for nftables.
func Usable() error {
	nft, err := netutil.OpenNft(Table)
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	_, err = nft.Chains()
	return err
}
