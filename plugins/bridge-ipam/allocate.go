package bridgeipam

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/ipam"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// given is an address and the range it is from.
type given struct {
	addr netip.Addr
	from ipam.Range
}

// prefix is the address with the length of its subnet.
func (g given) prefix() netip.Prefix { return netip.PrefixFrom(g.addr, g.from.Subnet.Bits()) }

// allocate chooses one address of each range set. A set that is exhausted, or whose address that is asked for is in
// use, first gets back what is held by the dead.
func allocate(store *lease.Locked, conf *netconf.Config, host *netutil.Handle) ([]given, error) {
	requested := append([]netip.Addr(nil), conf.Requested...)
	reclaimed := false
	var out []given
	for i, set := range conf.Sets {
		g, rest, err := choose(store, set, i, requested)
		if (errors.Is(err, ipam.ErrExhausted) || errors.Is(err, ipam.ErrUnavailable)) && !reclaimed {
			reclaimed = true
			if err := reclaim(store, host); err != nil {
				return nil, fmt.Errorf("reclaim leases of the dead: %w", err)
			}
			g, rest, err = choose(store, set, i, requested)
		}
		if errors.Is(err, ipam.ErrExhausted) { // code 11: it passes when a pod goes
			return nil, types.NewError(types.ErrTryAgainLater, fmt.Sprintf("allocate from range set %d (%s): %s; "+
				"bridge-ipam leases shows who holds them", i, set[0].Subnet, err), "")
		}
		if err != nil {
			return nil, fmt.Errorf("allocate from range set %d (%s): %w", i, set[0].Subnet, err)
		}
		requested = rest
		out = append(out, g)
	}
	if len(requested) > 0 {
		return nil, fmt.Errorf("allocate: %s is asked for, and its range set yields one address only", requested[0])
	}
	return out, nil
}

// choose takes the first requested address that is in the set, else the next free one.
func choose(store *lease.Locked, set ipam.Set, i int, requested []netip.Addr) (given, []netip.Addr, error) {
	for j, want := range requested {
		if _, ok := set.Find(want); !ok {
			continue
		}
		r, err := ipam.Take(set, want, store.Taken)
		rest := append(append([]netip.Addr(nil), requested[:j]...), requested[j+1:]...)
		return given{want, r}, rest, err
	}
	addr, r, err := ipam.Next(set, store.Taken, store.Last(i))
	return given{addr, r}, requested, err
}

// noteGiven notes, before they are leased, that addresses were given, and says which of them may have had an owner
// before: a crash after it leaves a note too many, and never one too few.
func noteGiven(store *lease.Locked, all []given) (used []netip.Addr, err error) {
	for i, g := range all {
		first, err := store.SetLast(i, g.addr, g.from.Contains)
		if err != nil {
			return nil, fmt.Errorf("remember the last address: %w", err)
		}
		if !first {
			used = append(used, g.addr)
		}
	}
	return used, nil
}

// reclaim drops the leases whose owner is provably dead.
func reclaim(store *lease.Locked, host *netutil.Handle) error {
	dead, err := deadLeases(store.Store, host)
	if err != nil {
		return err
	}
	var ifbs []string // which end with no namespace
	for _, e := range dead {
		if e.Lease.Egress.Rate != 0 || e.Damaged != nil {
			ifbs = append(ifbs, ifbLinkOfKey(e.Key))
		}
	}
	if err := host.DeleteLinks(ifbs); err != nil {
		return err
	}
	for _, e := range dead {
		if err := removeRules(e.Lease); err != nil {
			return err
		}
		if err := store.Drop(e.Record); err != nil {
			return err
		}
	}
	return nil
}

// deadLeases finds leases whose host link is gone and whose namespace is gone. A namespace without its
// path may live on in a process, but not with our link: both ends of a veth go together.
func deadLeases(store *lease.Store, host *netutil.Handle) ([]lease.Entry, error) {
	entries, err := store.All()
	if err != nil {
		return nil, err
	}
	present, err := linkNames(host)
	if err != nil {
		return nil, err
	}
	var dead []lease.Entry
	for _, e := range entries {
		if !present[hostLinkOfKey(e.Key)] && namespaceGone(e) {
			dead = append(dead, e)
		}
	}
	return dead, nil
}

func linkNames(host *netutil.Handle) (map[string]bool, error) {
	links, err := host.Links()
	present := map[string]bool{}
	for _, l := range links {
		present[l.Name] = true
	}
	return present, err
}

// namespaceGone is true when the path is gone or pins another namespace. Of a record that cannot be read
// the link alone has to tell.
func namespaceGone(e lease.Entry) bool {
	if e.Damaged != nil {
		return true
	}
	if e.Lease.HostLink == "" { // the link is another plugin's, and tells nothing
		return e.Lease.NetNSInode != 0 && pinGone(e.Lease) && !netutil.HasProcess(e.Lease.NetNSInode)
	}
	return pinGone(e.Lease)
}

func pinGone(l lease.Lease) bool {
	inode, err := netutil.InodeAt(l.NetNS)
	if err != nil {
		return errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err)
	}
	return inode != l.NetNSInode
}
