package bridgeipam

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/hostport"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/masq"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// Rules are the node's, and others delete them: a firewall that is loaded anew, a person with nft(8). Leases
// know what there was, and every operation that finds it gone brings it back.

// restore brings back whatever is missing of the rules that leases tell of.
func restore(conf *netconf.Config, host *netutil.Handle, s *lease.Store) error {
	err := errors.Join(restoreMasquerade(conf, s), restoreHostPorts(host, s))
	if err != nil {
		return fmt.Errorf("restore rules: %w", err)
	}
	return nil
}

// mend brings back rules that are gone as a whole, and leaves alone what is missing beside others.
func mend(conf *netconf.Config, host *netutil.Handle, s *lease.Store, l lease.Lease) error {
	var faults []error
	if l.Masquerade != "" && errdefs.IsNotFound(masq.CheckRules(l.Masquerade, l.Addresses)) {
		faults = append(faults, restoreMasquerade(conf, s))
	}
	if l.HostPorts != nil {
		faults = append(faults, mendHostPorts(host, s))
	}
	return errors.Join(faults...)
}

// restoreMasquerade knows the subnets of the configuration only: a chain for others that leases are in, from
// before it was changed, stays away until they are gone.
func restoreMasquerade(conf *netconf.Config, s *lease.Store) error {
	if !s.Exists() {
		return nil
	}
	store, err := s.Lock()
	if err != nil {
		return err
	}
	defer func() { _ = store.Unlock() }()
	kept, err := masqueraded(store)
	if err != nil {
		return err
	}
	network := masq.Network{Name: conf.Name, Subnets: conf.Subnets()}
	if !kept[network.Chain()] {
		return nil
	}
	return network.Create()
}

// withPorts lists the leases with host ports of all networks: one that finds the rules gone restores them for all.
func withPorts(s *lease.Store) ([]lease.Lease, error) {
	stores, err := s.Siblings()
	if err != nil {
		return nil, err
	}
	var out []lease.Lease
	for _, s := range stores {
		list, err := s.WithPorts()
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// mendHostPorts brings all host ports back if somebody deleted their rules.
func mendHostPorts(host *netutil.Handle, s *lease.Store) error {
	whole, err := hostport.Intact()
	if err != nil || whole {
		return err
	}
	return restoreHostPorts(host, s)
}

// restoreHostPorts brings back whatever is missing of host ports.
func restoreHostPorts(host *netutil.Handle, s *lease.Store) error {
	leases, err := withPorts(s)
	if err != nil {
		return err
	}
	return hostport.Restore(host, leases)
}
