package bridgeipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/hostport"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// claimHostPorts puts the wished host ports into the lease that is about to be committed, and makes sure
// that no other lease of the network has one of them.
func (a *adding) claimHostPorts(store *lease.Locked) error {
	if len(a.conf.HostPorts.Mappings) == 0 {
		return nil
	}
	for _, what := range a.conf.Warnings {
		a.log.Warn(what)
	}
	loopback := a.conf.Routed // where no bridge is on the way
	if !loopback {
		var err error
		if loopback, err = hostport.Loopback(a.host); err != nil {
			return err
		}
	}
	ports, ignored, err := hostPortsOf(a.conf.HostPorts, a.lease.Addresses, loopback)
	if err != nil {
		return err
	}
	for _, what := range ignored {
		a.log.Warn(what)
	}
	for _, f := range ports.Forwards {
		if err := a.vacate(store, f); err != nil {
			return err
		}
	}
	if len(ports.Forwards) > 0 {
		ports.Link = a.nodeLink()
		a.lease.HostPorts = ports
	}
	return nil
}

// nodeLink is the link by which the node reaches the pod.
func (a *adding) nodeLink() string {
	switch {
	case a.conf.Routed:
		return a.lease.HostLink
	case a.conf.IsGateway && a.conf.VLANs.Native != 0:
		return gatewayLink(a.conf.Bridge, a.conf.VLANs.Native)
	}
	return a.conf.Bridge
}

// vacate takes a host port from an owner that is dead; from one that lives it is an error.
func (a *adding) vacate(store *lease.Locked, f lease.Forward) error {
	owner, err := store.PortOwner(f)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = a.host.Link(owner.HostLink)
	if errdefs.IsNotFound(err) && namespaceGone(lease.Entry{Lease: owner}) {
		if err := a.host.DeleteLink(ifbLink(owner.Attachment)); err != nil {
			return err
		}
		return a.teardown().release(store, owner.Attachment)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("host port %s: taken by container %s (%s) of network %s", f.Claim(), owner.ContainerID, owner.IfName, owner.Network)
}

// hostPortsOf works out which port of the node leads to which of the pod: of each family the pod's first
// address counts. What leads nowhere is ignored with a word where it was for all addresses of a family, and
// refused otherwise.
func hostPortsOf(conf netconf.HostPorts, addrs []netip.Addr, loopback bool) (p *lease.HostPorts, ignored []string, err error) {
	first := map[bool]netip.Addr{}
	for _, a := range addrs {
		if _, has := first[a.Is6()]; !has {
			first[a.Is6()] = a
		}
	}
	p = &lease.HostPorts{SNAT: conf.SNAT, MasqAll: conf.SNAT && conf.MasqAll, Loopback: conf.SNAT && loopback}
	seen := map[string]lease.Forward{}
	for _, m := range conf.Mappings {
		hosts := []netip.Addr{m.HostIP}
		if !m.HostIP.IsValid() {
			hosts = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		}
		var faults []string
		for _, host := range hosts {
			pod, has := first[host.Is6()]
			if !has {
				faults = append(faults, fmt.Sprintf("host port %s %s: the pod has no address of this family",
					m.Protocol, netip.AddrPortFrom(host, m.HostPort)))
				continue
			}
			f := lease.Forward{Protocol: m.Protocol, Host: netip.AddrPortFrom(host, m.HostPort), Pod: netip.AddrPortFrom(pod, m.ContainerPort)}
			if host == netip.IPv6Loopback() && !p.Loopback {
				return nil, nil, badPorts(f.Claim() + ": flows from ::1 cannot lead to pods without snat, nor where net.bridge.bridge-nf-call-ip6tables is 1")
			}
			old, twice := seen[f.Claim()]
			if twice && old != f {
				return nil, nil, badPorts(fmt.Sprintf("%s: leads to %s already, not to %s", f.Claim(), old.Pod, f.Pod))
			}
			if !twice {
				seen[f.Claim()] = f
				p.Forwards = append(p.Forwards, f)
			}
		}
		if len(faults) < len(hosts) {
			continue
		}
		if m.HostIP.IsValid() && m.HostIP.IsUnspecified() {
			ignored = append(ignored, faults...)
			continue
		}
		return nil, nil, badPorts(faults[0])
	}
	return p, ignored, nil
}

func badPorts(msg string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "runtimeConfig.portMappings: "+msg, "")
}

// hostPorts makes the claimed ports lead to the pod, whose link is there by now.
func (a *adding) hostPorts() error {
	if a.lease.HostPorts != nil {
		return hostport.Add(a.host, a.lease, func() ([]lease.Lease, error) { return withPorts(a.store) })
	}
	// Without ports of its own it looks after those of others, if there are any.
	if !a.store.HasPorts() {
		return nil
	}
	if err := mendHostPorts(a.host, a.store); err != nil {
		a.log.Warn("restore host ports", "error", err)
	}
	return nil
}

// retainHostPorts makes the network have no host ports but those of its leases. links are those by which
// leases that are gone had theirs.
func retainHostPorts(host *netutil.Handle, store *lease.Locked, network string, links []string) error {
	keep, err := store.WithPorts()
	if err != nil {
		return err
	}
	faults := []error{hostport.Retain(host, network, keep)}
	if len(keep) == 0 {
		faults = append(faults, hostport.Tidy(host, links...))
	}
	return errors.Join(faults...)
}

// portLinks are the links by which leases have host ports.
func portLinks(entries []lease.Entry) []string {
	var out []string
	for _, e := range entries {
		if p := e.Lease.HostPorts; p != nil && !slices.Contains(out, p.Link) {
			out = append(out, p.Link)
		}
	}
	return out
}

// hairpin says whether the host end is to send back by the way a packet came: asked for, or needed by a pod
// that reaches itself by a host port where bridges call iptables. A promiscuous bridge does without.
func hairpin(conf *netconf.Config, l lease.Lease) bool {
	return conf.Hairpin || l.HostPorts != nil && l.HostPorts.SNAT && !conf.PromiscMode
}

// checkHostPorts: what is missing of its own ports is an error, and so is a wish that they do not fulfil.
func (c *checking) checkHostPorts() {
	if len(c.conf.HostPorts.Mappings) > 0 {
		want, _, err := hostPortsOf(c.conf.HostPorts, c.lease.Addresses, true)
		if err != nil {
			c.faults = append(c.faults, err)
			return
		}
		var have []lease.Forward
		if c.lease.HostPorts != nil {
			have = c.lease.HostPorts.Forwards
		}
		if !slices.Equal(have, want.Forwards) {
			c.fault("host ports: are %v, runtimeConfig.portMappings asks for %v", have, want.Forwards)
		}
	}
	if err := hostport.Check(c.lease); err != nil {
		c.faults = append(c.faults, err)
	}
}
