package bridgeipam

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/hostport"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// gc removes all of this network that belongs to none of the valid attachments. It does what it can and
// reports all errors at the end.
func (p *plugin) gc() error {
	conf, err := netconf.ParseTeardown(p.config)
	if err != nil {
		return err
	}
	host, err := netutil.Host()
	if err != nil {
		return err
	}
	defer host.Close()
	if conf.Valid == nil {
		faults := []error{p.collectDead(conf.Identity, host)}
		if conf.Delegate != "" {
			faults = append(faults, p.delegated("GC", conf.Delegate))
		}
		return errors.Join(faults...)
	}
	valid := map[string]bool{}
	for _, v := range conf.Valid {
		valid[lease.Attachment{ContainerID: v.ContainerID, IfName: v.IfName}.Key()] = true
	}
	store := p.store(conf.Identity)
	faults := []error{p.collect(store, host, conf.Name, valid)}
	if full, err := netconf.Parse(p.config, ""); err == nil && !conf.AddressesOnly { // one that was broken later cannot restore
		faults = append(faults, restore(full, host, store))
	}
	if conf.Delegate != "" {
		faults = append(faults, p.delegated("GC", conf.Delegate))
	}
	if len(valid) == 0 && !conf.Routed && !conf.AddressesOnly {
		faults = append(faults, removeBridge(host, conf.Bridge))
	}
	return errors.Join(faults...)
}

// collectDead is GC without a list of what is valid: only leases whose owner is provably dead go, and what belongs
// to no lease. Where others are left it is refused, because nobody said whether they are valid; where none
// are there was nothing to say (cnitool gives no list, after a DEL of all that it remembers).
func (p *plugin) collectDead(id netconf.Identity, host *netutil.Handle) error {
	s := p.store(id)
	if !s.Exists() {
		return nil
	}
	store, err := s.Lock()
	if err != nil {
		return err
	}
	defer func() { _ = store.Unlock() }()
	err = errors.Join(reclaim(store, host), retainMasquerade(store, id.Name), retainHostPorts(host, store, id.Name, nil),
		restoreGuard(store, id.Name), store.Sweep())
	if err != nil {
		return err
	}
	living, err := store.All()
	if err != nil || len(living) == 0 {
		return err
	}
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("cni.dev/valid-attachments: missing; %d attachments are "+
		"there, like that of container %s, and without the list GC would remove them all", len(living), living[0].Lease.ContainerID), "")
}

// collect removes links, leases and masquerade. It works in the order of the teardown, for all at once.
func (p *plugin) collect(s *lease.Store, host *netutil.Handle, network string, valid map[string]bool) error {
	var store *lease.Locked
	var stale []lease.Entry
	if s.Exists() {
		var err error
		if store, err = s.Lock(); err != nil {
			return err
		}
		defer func() { _ = store.Unlock() }()
		entries, err := store.All()
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !valid[e.Key] {
				stale = append(stale, e)
			}
		}
	}
	links, err := staleLinks(host, network, stale, valid)
	if err == nil {
		err = host.DeleteLinks(links)
	}
	if err != nil { // with a link that stays, its lease stays
		return err
	}
	if store == nil {
		return errors.Join(hostport.Tidy(host), teardown{plugin: p, store: s, network: network}.forgotten())
	}
	if err := netutil.FlushUDP(addressesOf(stale)...); err != nil {
		p.log.Warn("flush UDP flows", "error", err)
	}
	var faults []error
	for _, e := range stale {
		faults = append(faults, removeRules(e.Lease), store.Drop(e.Record))
	}
	faults = append(faults, collectAdopted(store, valid), retainMasquerade(store, network), retainHostPorts(host, store, network, portLinks(stale)),
		restoreGuard(store, network), store.Sweep())
	return errors.Join(faults...)
}

// staleLinks finds the host ends of stale leases, and those whose alias says that they are of this network
// and which are of no valid attachment.
func staleLinks(host *netutil.Handle, network string, stale []lease.Entry, valid map[string]bool) ([]string, error) {
	keep, drop := map[string]bool{}, map[string]bool{}
	for key := range valid {
		for _, name := range hostLinksOfKey(key) {
			keep[name] = true
		}
	}
	for _, e := range stale {
		for _, name := range hostLinksOfKey(e.Key) {
			drop[name] = true
		}
	}
	links, err := host.Links()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range links {
		if l.Kind != "veth" && l.Kind != "ifb" || keep[l.Name] {
			continue
		}
		if drop[l.Name] || strings.HasPrefix(l.Alias, networkAlias(network)) {
			names = append(names, l.Name)
		}
	}
	return names, nil
}

// removeBridge deletes a bridge that we made and that has no port.
func removeBridge(host *netutil.Handle, name string) error {
	br, err := host.Link(name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil || !isOurBridge(br) {
		return err
	}
	links, err := host.Links()
	if err != nil {
		return err
	}
	var ours []string
	for _, l := range links {
		switch {
		case isGatewayOf(l, name):
			ours = append(ours, l.Name)
		case l.Master == br.Index:
			return nil
		}
	}
	return host.DeleteLinks(append(ours, name))
}
