package bridgeipam

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/masq"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// adding is one ADD on its way.
type adding struct {
	*plugin
	conf  *netconf.Config
	store *lease.Store
	ns    *netutil.NS
	host  *netutil.Handle
	pod   *netutil.Handle

	at     lease.Attachment
	lease  lease.Lease
	ownMAC net.HardwareAddr // see mac

	flushing sync.WaitGroup // see forgetFlows
	given    []given
	routes   []*types.Route
	bridge   netutil.Link
	gate     netutil.Link // that has the gateway addresses: the bridge, or a link in its VLAN
}

func (p *plugin) add() (types.Result, error) {
	conf, err := netconf.Parse(p.config, p.env.args)
	if err != nil {
		return nil, err
	}
	if conf.AddressesOnly {
		return p.addAddresses(conf)
	}
	ns, err := p.openNS()
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	host, pod, err := handles(ns)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	defer pod.Close()
	a := &adding{
		plugin: p, conf: conf, ns: ns, host: host, pod: pod, at: p.env.attachment(),
		store: p.store(conf.Identity),
	}
	defer a.flushing.Wait()
	if err := a.clearTheWay(); err != nil {
		return nil, err
	}
	take, attach := a.takeLease, a.attach
	if conf.Delegate != "" {
		take, attach = a.noLease, a.attachDelegated
	}
	if err := take(); err != nil {
		return nil, err
	}
	// Crash from here on: the lease names what is to be undone.
	result, err := attach()
	if err != nil {
		if errdefs.IsResourceExhausted(err) {
			err = fmt.Errorf("bridge %q: has as many ports as a bridge can have, mode \"routed\" has no such limit: %w", a.conf.Bridge, err)
		}
		if e := a.teardown().undo(a.at, false); e != nil {
			err = fmt.Errorf("%w; undo: %w", err, e)
		}
		return nil, err
	}
	return result, nil
}

// openNS opens CNI_NETNS and makes sure that it is a namespace and not our own.
func (p *plugin) openNS() (*netutil.NS, error) {
	ns, err := netutil.OpenNS(p.env.netns)
	if err != nil {
		return nil, badEnv("CNI_NETNS %.200q: %s; want the path of a network namespace", p.env.netns, err)
	}
	own, err := ns.IsCurrent()
	if err == nil && own && !p.env.sameNetns {
		err = types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS %q: it is the plugin's own namespace", p.env.netns), "")
	}
	if err != nil {
		_ = ns.Close()
		return nil, err
	}
	return ns, nil
}

func handles(ns *netutil.NS) (host, pod *netutil.Handle, err error) {
	if host, err = netutil.Host(); err != nil {
		return nil, nil, err
	}
	if pod, err = ns.Handle(); err != nil {
		host.Close()
		return nil, nil, err
	}
	return host, pod, nil
}

// clearTheWay finds out what is there of this attachment: nothing, the debris of an ADD that was killed
// or of a DEL whose namespace still lives (cleared), or a finished attachment (an error).
func (a *adding) clearTheWay() error {
	host, hasHost, err := look(a.host, hostLink(a.at))
	if err != nil {
		return err
	}
	pod, hasPod, err := look(a.pod, a.env.ifName)
	if err != nil {
		return err
	}
	finished := hasHost && a.finished(host)
	ours := hasHost && hasPod && host.Peer == pod.Index
	switch {
	case hasPod && (finished || !ours):
		return fmt.Errorf("interface %s exists already in %s", a.env.ifName, a.env.netns)
	case finished && a.livesElsewhere():
		return fmt.Errorf("container %s is attached already as %s, in another namespace or under another name: DEL comes first",
			a.env.containerID, a.env.ifName)
	case !hasHost: // its namespace may have ended without DEL, and taken the host end along
		return a.host.DeleteLink(ifbLink(a.at))
	case a.conf.Delegate != "": // it may have an address for the debris
		return errors.Join(a.teardown().removeLinks(a.at, false), a.delegated("DEL", a.conf.Delegate))
	}
	return a.teardown().removeLinks(a.at, false)
}

// look finds a link that is nearly always not there: no lock of the kernel's is waited for to learn that.
func look(h *netutil.Handle, name string) (link netutil.Link, has bool, err error) {
	if _, err = h.Index(name); err == nil {
		link, err = h.Link(name)
	}
	if errdefs.IsNotFound(err) {
		return link, false, nil
	}
	return link, err == nil, err
}

// finished says whether a host end belongs to an ADD that came to its end.
func (a *adding) finished(host netutil.Link) bool {
	switch {
	case !host.Up:
		return false
	case a.conf.Delegate != "": // the link works before there is an address; the lease comes last
		_, err := a.store.Find(a.at)
		return !errdefs.IsNotFound(err)
	case a.conf.Routed:
		return a.isRouted(host)
	}
	return host.Master != 0
}

// livesElsewhere says whether the attachment's lease belongs to a namespace that lives.
func (a *adding) livesElsewhere() bool {
	l, err := a.store.Find(a.at)
	if err != nil {
		return !errdefs.IsNotFound(err)
	}
	inode, err := netutil.InodeAt(l.NetNS)
	return err == nil && inode == l.NetNSInode
}

func (a *adding) teardown() teardown {
	return teardown{plugin: a.plugin, store: a.store, host: a.host, network: a.conf.Name, delegate: a.conf.Delegate}
}

// takeLease makes the addresses ours. An older lease of the attachment has lost its link by now.
func (a *adding) takeLease() error {
	if err := a.newLease(); err != nil {
		return err
	}
	store, err := a.store.Lock()
	if err != nil {
		return ioFailure(err)
	}
	defer func() { _ = store.Unlock() }()
	if err := a.teardown().release(store, a.at); err != nil {
		return err
	}
	if a.given, err = allocate(store, a.conf, a.host); err != nil {
		return err
	}
	used, err := noteGiven(store, a.given)
	if err != nil {
		return err
	}
	a.addressLease()
	a.forgetFlows(used)
	if err := a.claimHostPorts(store); err != nil {
		return err
	}
	return store.Commit(a.lease)
}

// newLease is a lease without addresses.
func (a *adding) newLease() error {
	mtu := a.conf.MTU
	if mtu == 0 {
		var err error
		if mtu, err = a.host.UplinkMTU(); err != nil {
			return err
		}
	}
	a.lease = lease.Lease{
		Attachment: a.at, Network: a.conf.Name, NetNS: a.env.netns, NetNSInode: a.ns.Inode(),
		HostLink: hostLink(a.at), MTU: mtu, Delegate: a.conf.Delegate, Time: time.Now().UTC(),
		Ingress: lease.Limit(a.conf.Ingress), Egress: lease.Limit(a.conf.Egress),
	}
	return nil
}

// addressLease adds the addresses that were given, and what follows from them.
func (a *adding) addressLease() {
	for _, g := range a.given {
		a.lease.Addresses = append(a.lease.Addresses, g.addr)
	}
	if a.conf.IPMasq && len(a.given) > 0 {
		a.lease.Masquerade = a.masquerade().Chain()
	}
	if a.conf.Routed {
		a.given = routedGiven(a.given)
	}
	a.lease.Guard = a.guardOfPort()
}

func ioFailure(err error) error {
	return types.NewError(types.ErrIOFailure, err.Error(), "")
}

func (a *adding) masquerade() masq.Network {
	return masq.Network{Name: a.conf.Name, Subnets: a.conf.Subnets()}
}

// attach does the kernel's work: what concerns other tables beside the links.
func (a *adding) attach() (types.Result, error) {
	beside := make(chan error, 1)
	go func() { beside <- errors.Join(a.besideLinks(), a.guardPort()) }()
	err := a.links()
	if err = errors.Join(err, <-beside); err != nil {
		return nil, err
	}
	a.flushing.Wait()
	if !a.conf.Routed { // else in the course of activate
		if err := a.hostPorts(); err != nil {
			return nil, err
		}
	}
	if err := a.activate(); err != nil {
		return nil, err
	}
	if err := a.settle(); err != nil {
		return nil, err
	}
	return a.result()
}

// forgetFlows begins to flush what is left of UDP flows of earlier owners. The kernel looks through all of its table,
// which holds the flows of the whole node, and nobody else has these addresses.
func (a *adding) forgetFlows(addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	a.flushing.Go(func() {
		if err := netutil.FlushUDP(addrs...); err != nil {
			a.log.Warn("flush UDP flows", "error", err)
		}
	})
}

// besideLinks has no part in the order of the other steps.
func (a *adding) besideLinks() error {
	if a.lease.Masquerade == "" {
		return nil
	}
	network := a.masquerade()
	err := network.Ensure()
	if !errdefs.IsNotFound(err) {
		return err
	}
	// The first of its network, or somebody flushed the rules. The lock keeps a DEL from taking them away.
	store, err := a.store.Lock()
	if err != nil {
		return err
	}
	defer func() { _ = store.Unlock() }()
	return network.Create()
}

// masqueraded are the chains that leases are in.
func masqueraded(store *lease.Locked) (map[string]bool, error) {
	entries, err := store.All()
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	for _, e := range entries {
		if e.Lease.Masquerade != "" {
			kept[e.Lease.Masquerade] = true
		}
	}
	return kept, nil
}
