package bridgeipam

import (
	"net/netip"
	"slices"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/ipam"
)

// In mode "routed" there is no bridge. The host end of each pod has the same gateway addresses, and the host a
// route to each address of the pod through it; the pod has its addresses alone (/32, /128) and everything
// else by the gateway. IPv4's is of scope host: the host answers for it and sends from its own address.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
)

func routedGateway(v6 bool) netip.Addr {
	if v6 {
		return gateway6
	}
	return gateway4
}

// routedGiven narrows subnets to the addresses, and has the gateways of the host end.
func routedGiven(list []given) []given {
	var out []given
	for _, g := range list {
		r := ipam.Range{Subnet: netip.PrefixFrom(g.addr, g.addr.BitLen()), Gateway: routedGateway(g.addr.Is6())}
		out = append(out, given{g.addr, r})
	}
	return out
}

// reachGateways puts the gateway onto the pod's link; IPv6 has its link-local network there anyway.
func (a *adding) reachGateways(link int) error {
	for _, g := range a.given {
		if g.addr.Is4() {
			return a.pod.AddRoute(link, hostRoute(gateway4))
		}
	}
	return nil
}

// hostRoute is a route to one address on a link.
func hostRoute(addr netip.Addr) netutil.Route {
	return netutil.Route{Dst: netip.PrefixFrom(addr, addr.BitLen()), Scope: scopeLink}
}

// route brings the host end up with its gateway addresses and then the routes through it: the commit of ADD,
// see finished.
func (a *adding) route(link int, alias string) error {
	var gateways []netip.Prefix
	for _, g := range a.given {
		gateways = append(gateways, g.prefix())
	}
	if err := a.forward(gateways); err != nil {
		return err
	}
	for _, g := range a.given {
		if err := a.addHostGateway(link, g.addr.Is6()); err != nil {
			return err
		}
	}
	if err := a.host.SetLink(link, netutil.Change{Alias: alias, Up: true}); err != nil {
		return err
	}
	if err := a.hostPorts(); err != nil { // what it needs of the link is possible once that is up
		return err
	}
	for _, g := range a.given {
		if err := a.host.AddRoute(link, hostRoute(g.addr)); err != nil {
			return err
		}
	}
	return nil
}

func (a *adding) addHostGateway(link int, v6 bool) error {
	if !v6 {
		return a.host.AddOwnAddr(link, gateway4)
	}
	conf := "ipv6/conf/" + a.lease.HostLink
	err := a.host.SetSysctls(
		netutil.Sysctl{Key: conf + "/disable_ipv6", Value: "0"},
		netutil.Sysctl{Key: conf + "/accept_dad", Value: "0", Optional: true})
	if err != nil {
		return err
	}
	return a.host.AddAddr(link, netip.PrefixFrom(gateway6, 64))
}

// isRouted says whether the host has all routes to the addresses of the attachment's lease through its link.
func (a *adding) isRouted(host netutil.Link) bool {
	l, err := a.store.Find(a.at)
	if err != nil {
		return false
	}
	for _, addr := range l.Addresses {
		r := hostRoute(addr)
		r.Link = host.Index
		if has, err := a.host.HasRoute(r); err != nil || !has {
			return false
		}
	}
	return true
}

// checkRouted looks at the host's side of a routed attachment.
func (c *checking) checkRouted() {
	name := hostLink(c.env.attachment())
	link, err := c.host.Link(name)
	if err != nil {
		c.faults = append(c.faults, err)
		return
	}
	c.sameLink("host", link, c.recorded(name))
	c.checkBandwidth(link)
	have, err := c.host.Addrs(link.Index)
	if err != nil {
		c.faults = append(c.faults, err)
	}
	for _, p := range c.ips {
		gateway, bits := gateway4, 32
		if p.Addr().Is6() {
			gateway, bits = gateway6, 64
		}
		if !slices.Contains(have, netip.PrefixFrom(gateway, bits)) {
			c.fault("gateway %s: not on %s", gateway, name)
		}
		route := hostRoute(p.Addr())
		route.Link = link.Index
		if has, err := c.host.HasRoute(route); err != nil {
			c.faults = append(c.faults, err)
		} else if !has {
			c.fault("route to %s: missing on the host, through %s", p.Addr(), name)
		}
	}
}
