package bridgeipam

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/hostport"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/masq"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

func (p *plugin) del() error {
	conf, err := netconf.ParseTeardown(p.config)
	if err != nil {
		return err
	}
	host, err := netutil.Host()
	if err != nil {
		return err
	}
	defer host.Close()
	t := teardown{plugin: p, host: host, network: conf.Name, store: p.store(conf.Identity), delegate: conf.Delegate}
	return t.undo(p.env.attachment(), conf.NetnsDestroyed)
}

// teardown undoes attachments: for DEL and for an ADD that failed. Its steps may be repeated.
type teardown struct {
	*plugin
	store   *lease.Store
	host    *netutil.Handle
	network string
	// delegate is the plugin that gave the addresses; empty: this one.
	delegate string
	// portsGone: the attachment's host ports are gone already.
	portsGone bool
	// unknown: there is no lease. Somebody may have removed it by hand, and what it would tell of is there.
	unknown bool
}

// undo lets go of all that an attachment has. With detachOnly its link is only cut off: the namespace's
// end deletes it.
func (t teardown) undo(at lease.Attachment, detachOnly bool) error {
	// The link goes before the lease: an address must not be given out while an old link answers for it. Its host
	// ports go at the same time, because the kernel makes each of the two wait for a grace period.
	l, err := t.store.Find(at)
	t.unknown = errdefs.IsNotFound(err)
	linkGone := make(chan struct{})
	ports := dropPorts(l, linkGone)
	err = t.removeLinks(at, detachOnly)
	close(linkGone)
	if ports != nil {
		err = errors.Join(err, <-ports)
		t.portsGone = true
	}
	if err != nil {
		return err
	}
	var faults []error
	if t.delegate != "" {
		faults = append(faults, t.delegated("DEL", t.delegate))
	}
	return errors.Join(append(faults, t.letGo(at))...)
}

// dropPorts begins to remove the host ports of a lease; nil when there are none, or when release will say what is wrong.
func dropPorts(l lease.Lease, linkGone <-chan struct{}) <-chan error {
	if l.HostPorts == nil {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- hostport.Remove(l, func() error { <-linkGone; return nil }) }()
	return done
}

// letGo gives up what an attachment holds beside its link.
func (t teardown) letGo(at lease.Attachment) error {
	if t.unknown {
		if err := hostport.Tidy(t.host); err != nil {
			return err
		}
	}
	if !t.store.Exists() {
		return t.forgotten()
	}
	// Crash here: the lease is there without its link; DEL comes again, or GC, or the range is exhausted.
	store, err := t.store.Lock()
	if err != nil {
		return err
	}
	err = t.release(store, at)
	return errors.Join(err, store.Unlock())
}

func (t teardown) removeLink(name string, detachOnly bool) error {
	if !detachOnly {
		return t.host.DeleteLink(name)
	}
	link, err := t.host.Link(name)
	if err == nil {
		err = t.host.SetLink(link.Index, netutil.Change{Master: netutil.NoMaster, Down: true})
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (t teardown) release(store *lease.Locked, at lease.Attachment) error {
	l, err := store.Find(at)
	switch {
	case errdefs.IsNotFound(err):
		return errors.Join(t.releaseAdopted(store, at), t.tidy(store))
	case errors.Is(err, errdefs.ErrDataLoss):
		// Which addresses and chain it had cannot be known; the masquerade is made to fit what is left.
		if err := store.Release(at); err != nil {
			return err
		}
		return errors.Join(retainMasquerade(store, t.network), retainHostPorts(t.host, store, t.network, nil), restoreGuard(store, t.network))
	case err != nil:
		return err
	}
	rules := l
	if t.portsGone {
		rules.HostPorts = nil
	}
	if err := removeRules(rules); err != nil {
		return err
	}
	if err := netutil.FlushUDP(l.Addresses...); err != nil {
		t.log.Warn("flush UDP flows", "error", err)
	}
	if err := store.Release(at); err != nil {
		return err
	}
	if l.HostPorts != nil && !store.HasPorts() {
		if err := hostport.Tidy(t.host, l.HostPorts.Link); err != nil {
			return err
		}
	}
	return t.tidy(store)
}

// tidy: with the network's last lease goes what belongs to no lease.
func (t teardown) tidy(store *lease.Locked) error {
	empty, err := store.Empty()
	if err != nil || !empty {
		return err
	}
	return errors.Join(masq.Retain(t.network, nil), restoreGuard(store, t.network), store.Sweep())
}

// forgotten clears the masquerade of a network whose lease directory was removed by hand. It makes a
// directory, for the lock in it, only when there is something to clear.
func (t teardown) forgotten() error {
	if has, err := masq.Has(t.network); err != nil || !has {
		return err
	}
	store, err := t.store.Lock()
	if err != nil {
		return err
	}
	return errors.Join(retainMasquerade(store, t.network), store.Unlock())
}

// retainMasquerade makes the network's masquerade fit its leases.
func retainMasquerade(store *lease.Locked, network string) error {
	kept, err := masqueraded(store)
	if err != nil {
		return err
	}
	if err := masq.Retain(network, kept); err != nil {
		return fmt.Errorf("clear masquerade: %w", err)
	}
	return nil
}

// addressesOf joins the addresses of leases.
func addressesOf(entries []lease.Entry) []netip.Addr {
	var out []netip.Addr
	for _, e := range entries {
		out = append(out, e.Lease.Addresses...)
	}
	return out
}
