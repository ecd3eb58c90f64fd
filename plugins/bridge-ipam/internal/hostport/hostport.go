package hostport

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
)

// editor changes the table, under the lock of the network namespace.
type editor struct {
	nft  *netutil.Nft
	host *netutil.Handle
}

func open() (*netutil.Nft, error) { return netutil.OpenNft(Table) }

func edit(host *netutil.Handle, f func(e editor) error) error {
	return netutil.EditNft(open, func(nft *netutil.Nft) error { return f(editor{nft, host}) })
}

// Add makes the host ports of a lease lead to its pod, whose host link must be there. A port that another
// attachment has is ErrAlreadyExists and nothing is changed. others are all leases that have host ports:
// they get theirs back if somebody deleted the rules.
func Add(host *netutil.Handle, l lease.Lease, others func() ([]lease.Lease, error)) error {
	if l.HostPorts == nil {
		return nil
	}
	return edit(host, func(e editor) error {
		whole, err := intact(e.nft)
		if err != nil {
			return err
		}
		if !whole {
			list, err := others()
			if err != nil {
				return err
			}
			if err := e.restore(list); err != nil {
				return err
			}
		}
		want := elements(l)
		have, err := e.find(want)
		if err != nil {
			return err
		}
		if err := e.queue(want, have); err != nil {
			return err
		}
		if err := e.nft.Commit(); err != nil {
			return err
		}
		// The rules that guard loopback addresses are there before links may carry them.
		if err := e.openLink(*l.HostPorts); err != nil {
			return err
		}
		return e.flushFlows(*l.HostPorts)
	})
}

// find looks the elements up: each by itself, or in the whole maps when there are many.
func (e editor) find(want []element) (map[place]netutil.Entry, error) {
	const many = 100
	if len(want) > many {
		return e.dump()
	}
	have := map[place]netutil.Entry{}
	for _, w := range want {
		entry, found, err := e.nft.Entry(w.in, w.Key)
		if err != nil {
			return nil, err
		}
		if found {
			have[w.place()] = entry
		}
	}
	return have, nil
}

// dump lists all elements.
func (e editor) dump() (map[place]netutil.Entry, error) {
	have := map[place]netutil.Entry{}
	for _, f := range families {
		for _, m := range f.maps() {
			list, err := e.nft.Entries(m)
			if err != nil {
				return nil, err
			}
			for _, entry := range list {
				have[place{m.Name, string(entry.Key)}] = entry
			}
		}
	}
	return have, nil
}

// queue has the next Commit make the elements be there. An element of somebody else whose link is gone is
// replaced; one that is alive keeps its port, and nothing is queued.
func (e editor) queue(want []element, have map[place]netutil.Entry) error {
	var gone, fresh []element
	for _, w := range want {
		old, is := have[w.place()]
		switch {
		case is && old.Comment == w.Comment && string(old.Value) == string(w.Value):
			continue
		case is && old.Comment != w.Comment:
			alive, err := e.alive(old.Comment)
			if err != nil {
				return err
			}
			if alive && w.claim != "" {
				_, attachment := ownerOf(old.Comment)
				return fmt.Errorf("host port %s: taken by %s: %w", w.claim, attachment, errdefs.ErrAlreadyExists)
			}
			if alive {
				continue
			}
		}
		if is {
			gone = append(gone, w)
		}
		fresh = append(fresh, w)
	}
	each(gone, e.nft.DeleteEntries)
	each(fresh, e.nft.AddEntries)
	return nil
}

// each hands elements to f, those of one map together.
func each(list []element, f func(netutil.Map, ...netutil.Entry)) {
	maps := map[string]netutil.Map{}
	entries := map[string][]netutil.Entry{}
	for _, el := range list {
		maps[el.in.Name] = el.in
		entries[el.in.Name] = append(entries[el.in.Name], el.Entry)
	}
	for name, m := range maps {
		f(m, entries[name]...)
	}
}

// alive says whether the host link of an owner is there; of an owner without one it is assumed.
func (e editor) alive(comment string) (bool, error) {
	link, _ := ownerOf(comment)
	if link == "" {
		return true, nil
	}
	_, err := e.host.Link(link)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// restore makes rules and elements of leases be there whose host link is up: any other is on its way in
// or out, under its own control. Elements in the way of others stay.
func (e editor) restore(leases []lease.Lease) error {
	links, err := e.host.Links()
	if err != nil {
		return err
	}
	up := map[string]bool{"": true}
	for _, l := range links {
		up[l.Name] = l.Up
	}
	whole, err := intact(e.nft)
	if err == nil && !whole {
		create(e.nft)
		err = e.nft.Commit()
	}
	if err != nil {
		return err
	}
	have, err := e.dump()
	if err != nil {
		return err
	}
	var faults []error
	for _, l := range leases {
		if l.HostPorts == nil || !up[l.HostLink] {
			continue
		}
		want := elements(l)
		if err := e.queue(want, have); err != nil {
			faults = append(faults, fmt.Errorf("restore host ports of %s: %w", l.ContainerID, err))
			continue
		}
		for _, w := range want {
			have[w.place()] = w.Entry
		}
		faults = append(faults, e.openLink(*l.HostPorts))
	}
	return errors.Join(append(faults, e.nft.Commit())...)
}

// Remove takes the host ports of a lease away, as far as they are its own; gone is success. What others
// delete belongs into beside: see Nft.Close, one grace period is waited for then, and not under the lock. So does
// waiting for the pod's link to end: as long as it is up, a Restore that has read the lease brings its ports back,
// and they are looked for once more.
func Remove(l lease.Lease, beside func() error) error {
	if l.HostPorts == nil {
		return beside()
	}
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	e, own := editor{nft: nft}, elements(l)
	if err := e.removeOwn(own); err != nil {
		return err
	}
	return errors.Join(beside(), e.removeOwn(own), netutil.FlushAnswersOf(podAddrs(l.HostPorts)...))
}

// removeOwn deletes those of the elements that are there and have the same owner.
func (e editor) removeOwn(list []element) error {
	unlock, err := netutil.LockNS()
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	have, err := e.find(list)
	if err != nil {
		return ignoreMissing(err)
	}
	var own []element
	for _, w := range list {
		if old, is := have[w.place()]; is && old.Comment == w.Comment {
			own = append(own, w)
		}
	}
	if len(own) == 0 {
		return nil
	}
	each(own, e.nft.DeleteEntries)
	return ignoreMissing(e.nft.Commit())
}

func ignoreMissing(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// flushFlows forgets flows that were tracked before the ports led here. A TCP flow that the node itself has
// on such a port is left alone: it began before, and goes on.
func (e editor) flushFlows(p lease.HostPorts) error {
	faults := []error{netutil.FlushAnswersOf(podAddrs(&p)...)}
	for _, f := range p.Forwards {
		if f.Protocol != "udp" {
			continue
		}
		addrs := []netip.Addr{f.Host.Addr()}
		if f.Host.Addr().IsUnspecified() {
			var err error
			if addrs, err = e.host.NodeAddrs(f.Host.Addr().Is6()); err != nil {
				faults = append(faults, err)
			}
		}
		faults = append(faults, netutil.FlushUDPTo(f.Host.Port(), addrs...))
	}
	return errors.Join(faults...)
}
