package hostport

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
)

// Intact says whether the rules are there, though not whether all host ports are in the maps.
func Intact() (bool, error) {
	nft, err := open()
	if err != nil {
		return false, err
	}
	defer func() { _ = nft.Close() }()
	return intact(nft)
}

// Restore brings back what is missing of the rules and of the host ports of leases. Without any of them it
// does nothing.
func Restore(host *netutil.Handle, leases []lease.Lease) error {
	if len(leases) == 0 {
		return nil
	}
	return edit(host, func(e editor) error { return e.restore(leases) })
}

// Retain takes away the host ports of a network that none of the leases to keep has.
func Retain(host *netutil.Handle, network string, keep []lease.Lease) error {
	wanted := map[place]string{}
	for _, l := range keep {
		for _, w := range elements(l) {
			wanted[w.place()] = w.Comment
		}
	}
	return edit(host, func(e editor) error {
		var stale []element
		for _, f := range families {
			for _, m := range f.maps() {
				list, err := e.nft.Entries(m)
				if errdefs.IsNotFound(err) {
					return nil
				}
				if err != nil {
					return err
				}
				for _, entry := range list {
					el := element{in: m, Entry: entry}
					if isOf(entry.Comment, network) && wanted[el.place()] != entry.Comment {
						stale = append(stale, el)
					}
				}
			}
		}
		each(stale, e.nft.DeleteEntries)
		return ignoreMissing(e.nft.Commit())
	})
}

// Check says what is missing or altered of the host ports of a lease; nil when nothing is.
func Check(l lease.Lease) error {
	if l.HostPorts == nil {
		return nil
	}
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	whole, err := intact(nft)
	if err != nil {
		return err
	}
	if !whole {
		return fmt.Errorf("rules of nftables table %s: %w", Table, errdefs.ErrNotFound)
	}
	want := elements(l)
	have, err := editor{nft: nft}.find(want)
	if err != nil {
		return err
	}
	for _, w := range want {
		old, is := have[w.place()]
		what := w.claim
		if what == "" {
			what = "source translation"
		}
		switch {
		case !is:
			return fmt.Errorf("host port %s: not in nftables map %s: %w", what, w.in.Name, errdefs.ErrNotFound)
		case string(old.Value) != string(w.Value):
			return fmt.Errorf("host port %s: leads elsewhere, by nftables map %s", what, w.in.Name)
		case w.claim != "" && old.Comment != w.Comment:
			return fmt.Errorf("host port %s: is of %q in nftables map %s", what, old.Comment, w.in.Name)
		}
	}
	return nil
}
