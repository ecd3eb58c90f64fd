// Package masq owns the masquerade of pods: what leaves a network gets the address of the node's link.
//
// In one nftables table, each network (with its subnets) has a chain with one rule per family and a set of its
// subnets, which the rule asks for the source and the destination. Pods come and go without a change: deleting
// an element would have every DEL wait for a grace period of the kernel, and all of a node one after the
// other. The name of a chain says network and subnets, so that a network whose ranges were changed gets a chain
// beside the old one, and nothing is ever altered in place.
//
// A chain comes with its first lease and goes with its network's last, and the table with its last chain. Both
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

// subnets is the set of a chain for one family.
func subnets(chain string, v6 bool) netutil.Set {
	family := "4"
	if v6 {
		family = "6"
	}
	return netutil.Set{Name: chain + "-subnets" + family, V6: v6}
}

func open() (*netutil.Nft, error) { return netutil.OpenNft(Table) }

// Ensure says whether the network's rules are there; if not it is ErrNotFound: Create is next.
func (n Network) Ensure() error {
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	return n.ensure(nft)
}

func (n Network) ensure(nft *netutil.Nft) error {
	rules, err := nft.Rules(n.Chain())
	if err == nil && rules != n.families() {
		err = fmt.Errorf("rules of nftables chain %s: %w", n.Chain(), errdefs.ErrNotFound)
	}
	return err
}

// families counts the families of the subnets; each has one rule.
func (n Network) families() int {
	seen := map[bool]bool{}
	for _, s := range n.Subnets {
		seen[s.Addr().Is6()] = true
	}
	return len(seen)
}

// Create makes what is missing of table, chain, sets and rules. The caller keeps others from working on the same
// network.
func (n Network) Create() error {
	return netutil.EditNft(open, func(nft *netutil.Nft) error {
		if whole, err := n.whole(nft); err != nil || whole {
			return err // another process was first
		}
		n.create(nft)
		return nft.Commit()
	})
}

// whole says whether rules and sets are as create makes them.
func (n Network) whole(nft *netutil.Nft) (bool, error) {
	err := n.ensure(nft)
	for _, s := range n.Subnets {
		if err == nil {
			err = has(nft, n.Chain(), s.Addr())
		}
	}
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (n Network) create(nft *netutil.Nft) {
	chain := n.Chain()
	nft.AddTable()
	nft.AddPostrouting(chain)
	nft.FlushChain(chain) // its rules may have been deleted in part
	for _, v6 := range []bool{false, true} {
		var inside []netip.Prefix
		for _, s := range n.Subnets {
			if s.Addr().Is6() == v6 {
				inside = append(inside, s.Masked())
			}
		}
		set := subnets(chain, v6)
		nft.AddSet(set)
		if len(inside) == 0 {
			continue
		}
		nft.FlushSet(set)
		nft.AddPrefixes(set, merge(inside)...)
		nft.AddMasquerade(chain, set, "network "+n.Name)
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

// Retain keeps the given chains of a network and no others: it removes the rest, and the table when nothing is
// left in it.
func Retain(network string, keep map[string]bool) error {
	return netutil.EditNft(open, func(nft *netutil.Nft) error { return retain(nft, network, keep) })
}

func retain(nft *netutil.Nft, network string, keep map[string]bool) error {
	chains, err := nft.Chains()
	if err != nil || len(chains) == 0 {
		return err
	}
	left := len(chains)
	for _, chain := range chains {
		if !strings.HasPrefix(chain, chainsOf(network)) || keep[chain] {
			continue
		}
		if left--; left == 0 { // with the last chain goes the table
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

func deleteChain(nft *netutil.Nft, chain string) error {
	nft.DeleteChain(chain)
	for _, v6 := range []bool{false, true} {
		nft.DeleteSet(subnets(chain, v6))
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
	nft, err := open()
	if err != nil {
		return false, err
	}
	defer func() { _ = nft.Close() }()
	chains, err := nft.Chains()
	return slices.ContainsFunc(chains, func(c string) bool { return strings.HasPrefix(c, chainsOf(network)) }), err
}

// Check says what is missing of a masquerade that was added; nil when nothing is.
func Check(chain string, addrs []netip.Addr) error {
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	if err := checkRules(nft, chain, addrs); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := has(nft, chain, a); err != nil {
			return err
		}
	}
	return nil
}

// has is ErrNotFound when an address is in no subnet of the chain.
func has(nft *netutil.Nft, chain string, a netip.Addr) error {
	set := subnets(chain, a.Is6())
	is, err := nft.HasAddr(set, a)
	if err == nil && !is {
		err = fmt.Errorf("%s in nftables set %s: %w", a, set.Name, errdefs.ErrNotFound)
	}
	return err
}

// CheckRules says whether the rules that Check also asks for are there, whatever is in the sets.
func CheckRules(chain string, addrs []netip.Addr) error {
	nft, err := open()
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
	families := map[bool]bool{}
	for _, a := range addrs {
		families[a.Is6()] = true
	}
	if rules, err := nft.Rules(chain); err != nil || rules < len(families) {
		return fmt.Errorf("rules of nftables chain %s: %w", chain, errors.Join(err, errdefs.ErrNotFound))
	}
	return nil
}

// Usable says whether the kernel takes requests for nftables.
func Usable() error {
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	_, err = nft.Chains()
	return err
}
