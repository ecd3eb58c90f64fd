package bridgeipam

import (
	"net"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/guard"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/hostport"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
)

// mac is the MAC of the container's end. It stays what it was when it was first asked for: addresses may come
// to be known after the link is made.
func (a *adding) mac() net.HardwareAddr {
	switch {
	case a.conf.MAC != nil:
		return a.conf.MAC
	case a.ownMAC == nil:
		a.ownMAC = podMAC(a.at, a.lease.Addresses)
	}
	return a.ownMAC
}

// guardOfPort is what the lease remembers of spoof checks; nil when there are none.
func (a *adding) guardOfPort() *lease.Guard {
	if !a.conf.CheckMAC && !a.conf.CheckAddrs {
		return nil
	}
	return &lease.Guard{MAC: a.mac().String(), CheckMAC: a.conf.CheckMAC, CheckAddrs: a.conf.CheckAddrs}
}

// guardedPort is the guard's view of a lease; false when it asks for no check.
func guardedPort(l lease.Lease) (guard.Port, bool) {
	if l.Guard == nil {
		return guard.Port{}, false
	}
	mac, err := net.ParseMAC(l.Guard.MAC)
	return guard.Port{
		Link: l.HostLink, MAC: mac, Addrs: l.Addresses, CheckMAC: l.Guard.CheckMAC, CheckAddrs: l.Guard.CheckAddrs,
	}, err == nil
}

// guardPort has the checks in place before the host end joins the bridge.
func (a *adding) guardPort() error {
	port, ok := guardedPort(a.lease)
	if !ok {
		return nil
	}
	err := guard.Add(a.conf.Name, port)
	if !errdefs.IsNotFound(err) {
		return err
	}
	// The first of its network, or somebody flushed the rules: all leases get their checks back.
	store, err := a.store.Lock()
	if err != nil {
		return err
	}
	defer func() { _ = store.Unlock() }()
	return restoreGuard(store, a.conf.Name)
}

// restoreGuard makes the network's checks fit its leases, whatever became of the rules.
func restoreGuard(store *lease.Locked, network string) error {
	entries, err := store.All()
	if err != nil {
		return err
	}
	var ports []guard.Port
	for _, e := range entries {
		if port, ok := guardedPort(e.Lease); ok {
			ports = append(ports, port)
		}
	}
	return guard.Restore(network, ports)
}

// removeRules takes an attachment out of host ports and checks. Its link is gone or down by now.
// One grace period of the kernel is waited for, see hostport.Remove.
func removeRules(l lease.Lease) error {
	return hostport.Remove(l, func() error {
		port, ok := guardedPort(l)
		if !ok {
			return nil
		}
		return guard.Remove(l.Network, port)
	})
}

func (c *checking) checkGuard() {
	port, ok := guardedPort(c.lease)
	switch {
	case ok:
		if err := guard.Check(c.conf.Name, port); err != nil {
			c.fault("spoof check: %w", err)
		}
	case c.conf.CheckMAC || c.conf.CheckAddrs:
		c.fault("spoof check: was never set up, macspoofchk or ipspoofchk is on now")
	}
}

// checkStatusGuard says whether spoof checks work, and brings back those that were lost.
func checkStatusGuard(s *lease.Store, network string) error {
	if err := guard.Usable(); err != nil {
		return err
	}
	store, err := s.Lock()
	if err != nil {
		return err
	}
	defer func() { _ = store.Unlock() }()
	return restoreGuard(store, network)
}

// guardLinkLocal: where the link-local address is checked, it has to be the one that follows from the MAC.
func (a *adding) guardLinkLocal(link int) error {
	if !a.conf.CheckAddrs {
		return nil
	}
	return a.pod.SetLink(link, netutil.Change{AddrGen: netutil.AddrGenEUI64})
}
