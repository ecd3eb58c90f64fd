package bridgeipam

import (
	"errors"
	"net/netip"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
)

// releaseAdopted lets go of an attachment that the reference plugins made: its link, which only CNI_NETNS
// leads to, and then the file of host-local.
func (t teardown) releaseAdopted(store *lease.Locked, at lease.Attachment) error {
	adopted, err := store.AdoptedBy(at)
	if err != nil || len(adopted) == 0 {
		return err
	}
	if err := t.removeAdoptedLink(); err != nil {
		return err
	}
	var addrs []netip.Addr
	for _, a := range adopted {
		addrs = append(addrs, a.Addr)
	}
	if err := netutil.FlushUDP(addrs...); err != nil {
		t.log.Warn("flush UDP flows", "error", err)
	}
	return store.Release(at)
}

// removeAdoptedLink deletes the veth pair by its end in the namespace. With the namespace it is gone too.
func (t teardown) removeAdoptedLink() error {
	ns, err := netutil.OpenNS(t.env.netns)
	if err != nil {
		return nil
	}
	defer func() { _ = ns.Close() }()
	if own, err := ns.IsCurrent(); err != nil || own {
		return err
	}
	pod, err := ns.Handle()
	if err != nil {
		return err
	}
	defer pod.Close()
	if l, err := pod.Link(t.env.ifName); err != nil || l.Kind != "veth" {
		return nil
	}
	return pod.DeleteLink(t.env.ifName)
}

// collectAdopted drops the leases of host-local that no valid attachment has.
func collectAdopted(store *lease.Locked, valid map[string]bool) error {
	adopted, err := store.Adopted()
	if err != nil {
		return err
	}
	keep := map[string]bool{} // container ids, for leases that name no interface
	for _, a := range adopted {
		keep[a.ContainerID] = keep[a.ContainerID] || valid[a.Key()]
	}
	var faults []error
	for _, a := range adopted {
		if !valid[a.Key()] && !(a.IfName == "" && keep[a.ContainerID]) {
			faults = append(faults, store.DropAdopted(a))
		}
	}
	return errors.Join(faults...)
}
