package bridgeipam

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/ipam"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/masq"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// errNotAvailable is the specification's code for "ADD would fail".
const errNotAvailable = 50

// errLimitedConnectivity is the code for that, and attachments that are there may suffer too.
const errLimitedConnectivity = 51

// status says whether an ADD would find what it needs.
func (p *plugin) status() error {
	conf, err := netconf.Parse(p.config, "")
	if err != nil {
		return err
	}
	host, err := netutil.Host()
	if err != nil {
		return notAvailable(err)
	}
	defer host.Close()
	store := p.store(conf.Identity)
	if err := checkStore(store, conf, host); err != nil {
		return notAvailable(err)
	}
	if conf.AddressesOnly {
		return nil
	}
	if conf.Delegate != "" {
		if err := p.delegated("STATUS", conf.Delegate); err != nil {
			return notAvailable(err)
		}
	}
	if conf.IPMasq {
		if err := masq.Usable(); err != nil {
			return notAvailable(err)
		}
	}
	if conf.CheckMAC || conf.CheckAddrs {
		if err := checkStatusGuard(store, conf.Name); err != nil {
			return notAvailable(err)
		}
	}
	if err := statusVLANs(host, conf); err != nil {
		return notAvailable(err)
	}
	if br, err := host.Link(conf.Bridge); !conf.Routed && err == nil && br.Kind != "bridge" {
		return notAvailable(fmt.Errorf("bridge %q: a link of this name exists and is a %s", conf.Bridge, br.Kind))
	}
	if err := restore(conf, host, store); err != nil {
		return types.NewError(errLimitedConnectivity, err.Error(), "")
	}
	return nil
}

func notAvailable(err error) error {
	return types.NewError(errNotAvailable, err.Error(), "")
}

// checkStore: leases can be written, and each range set has an address to give.
func checkStore(s *lease.Store, conf *netconf.Config, host *netutil.Handle) error {
	store, err := s.Lock()
	if err != nil {
		return err
	}
	defer func() { _ = store.Unlock() }()
	if err := store.Probe(); err != nil {
		return err
	}
	for i, set := range conf.Sets {
		_, _, err := ipam.Next(set, store.Taken, store.Last(i))
		if err == nil {
			continue
		}
		if !errors.Is(err, ipam.ErrExhausted) || !wouldReclaim(s, host, set) {
			return fmt.Errorf("range set %d (%s): %w", i, set[0].Subnet, err)
		}
	}
	return nil
}

// wouldReclaim says whether the next ADD would get an address of the set from the dead.
func wouldReclaim(s *lease.Store, host *netutil.Handle, set ipam.Set) bool {
	dead, err := deadLeases(s, host)
	if err != nil {
		return false
	}
	for _, addr := range addressesOf(dead) {
		if _, ok := set.Find(addr); ok {
			return true
		}
	}
	return false
}
