package bridgeipam

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/pkg/netutil"
)

// links makes the bridge ready and the pair with all that is inside the container. The host end stays
// down and off the bridge.
func (a *adding) links() error {
	if !a.conf.Routed {
		if err := a.ensureBridge(); err != nil {
			return err
		}
	}
	if err := a.addVeth(); err != nil {
		return err
	}
	// Crash here: the pair is there, off the bridge, and found by the name of its host end.
	if err := a.configurePod(); err != nil {
		return fmt.Errorf("configure %s: %w", a.env.ifName, err)
	}
	return a.prepareHostLink()
}

// addVeth makes the pair. To turn IPv6 off at the pod's link once it is there, the kernel would have us spin for its
// lock of all links (addrconf_disable_ipv6); but a new pod has no other links to come, for which the default matters.
func (a *adding) addVeth() error {
	add := func() error {
		return a.host.AddVeth(netutil.Veth{
			Name: a.lease.HostLink, MAC: hostMAC, MTU: a.lease.MTU,
			Peer: a.env.ifName, PeerMAC: a.mac(), PeerNS: a.ns,
		})
	}
	if !a.withoutIPv6() {
		return add()
	}
	return a.pod.WithSysctl(netutil.Sysctl{Key: "ipv6/conf/default/disable_ipv6", Value: "1", Optional: true}, add)
}

// ensureBridge makes the bridge if needed, brings it up and gives it the gateway addresses.
func (a *adding) ensureBridge() error {
	name := a.conf.Bridge
	br, err := a.host.Link(name)
	if errdefs.IsNotFound(err) {
		br, err = a.makeBridge(name)
	}
	if err != nil {
		return err
	}
	if br.Kind != "bridge" {
		return fmt.Errorf("bridge %q: a link of this name exists and is a %s", name, br.Kind)
	}
	if br.Alias != bridgeAlias { // of others: its MAC may follow its ports, and pods would lose their gateway
		if err := a.host.SetLink(br.Index, netutil.Change{MAC: br.MAC}); err != nil {
			return err
		}
	}
	if err := a.noIPv6Habits(br); err != nil {
		return err
	}
	if !br.Up {
		if err := a.host.SetLink(br.Index, netutil.Change{Up: true}); err != nil {
			return err
		}
	}
	a.bridge, a.gate = br, br
	if err := a.bridgeSettings(); err != nil {
		return err
	}
	return a.ensureGateways()
}

// noIPv6Habits comes before the bridge is up: no address is made by what others advertise (CVE-2020-10749), and none
// waits for duplicate address detection.
func (a *adding) noIPv6Habits(br netutil.Link) error {
	for _, s := range []struct {
		key     string
		setting netutil.DevConf6
	}{{"accept_ra", netutil.AcceptRA}, {"accept_dad", netutil.AcceptDAD}} {
		if value, ok := br.IPv6(s.setting); !ok || value == 0 {
			continue
		}
		if err := a.host.SetSysctls(netutil.Sysctl{Key: "ipv6/conf/" + br.Name + "/" + s.key, Value: "0"}); err != nil {
			return err
		}
	}
	return nil
}

// makeBridge: another ADD may be making it at the same moment; who comes second finds it.
func (a *adding) makeBridge(name string) (netutil.Link, error) {
	mac, err := netutil.RandomMAC()
	if err != nil {
		return netutil.Link{}, err
	}
	copy(mac, bridgeMAC)
	made := a.host.AddBridge(name, mac, a.lease.MTU)
	if made != nil && !errdefs.IsAlreadyExists(made) {
		return netutil.Link{}, made
	}
	br, err := a.host.Link(name)
	if err != nil || made != nil {
		return br, err
	}
	return br, a.host.SetLink(br.Index, netutil.Change{Alias: bridgeAlias})
}

// gateways are the addresses that the bridge has for this attachment.
func (a *adding) gateways() []netip.Prefix {
	var out []netip.Prefix
	if a.conf.IsGateway {
		for _, g := range a.given {
			out = append(out, netip.PrefixFrom(g.from.Gateway, g.from.Subnet.Bits()))
		}
	}
	return out
}

func (a *adding) ensureGateways() error {
	gateways := a.gateways()
	if len(gateways) == 0 {
		return nil
	}
	have, err := a.host.Addrs(a.gate.Index)
	if err != nil {
		return err
	}
	for _, gw := range gateways {
		if err := a.ensureGateway(gw, have); err != nil {
			return err
		}
	}
	return a.forward(gateways)
}

// ensureGateway adds one address to the bridge. One that is in its way is replaced or refused.
func (a *adding) ensureGateway(gw netip.Prefix, have []netip.Prefix) error {
	present := false
	for _, old := range have {
		if old == gw {
			present = true
			continue
		}
		if !a.conflicts(old, gw) {
			continue
		}
		if !a.conf.ForceAddress {
			return fmt.Errorf("bridge %q has address %s, the gateway %s does not fit beside it: remove it or set forceAddress",
				a.gate.Name, old, gw)
		}
		if err := a.host.DeleteAddr(a.gate.Index, old); err != nil {
			return err
		}
	}
	if present {
		return nil
	}
	if gw.Addr().Is6() {
		err := a.host.SetSysctls(netutil.Sysctl{Key: "ipv6/conf/" + a.gate.Name + "/disable_ipv6", Value: "0"})
		if err != nil {
			return fmt.Errorf("use IPv6: %w", err)
		}
	}
	return a.host.AddAddr(a.gate.Index, gw)
}

// conflicts: a bridge has IPv4 addresses of one network only, and IPv6 addresses that do not overlap.
func (a *adding) conflicts(old, gw netip.Prefix) bool {
	if old.Addr().Is6() != gw.Addr().Is6() || old.Addr().IsLinkLocalUnicast() && old.Addr().Is6() {
		return false
	}
	for _, set := range a.conf.Sets { // the gateway of another range of this network is no stranger
		for _, r := range set {
			if old == netip.PrefixFrom(r.Gateway, r.Subnet.Bits()) {
				return false
			}
		}
	}
	return gw.Addr().Is4() || old.Overlaps(gw)
}

// forward turns forwarding on for the families in use.
func (a *adding) forward(gateways []netip.Prefix) error {
	for _, gw := range gateways {
		key := "ipv4/ip_forward"
		if gw.Addr().Is6() {
			key = "ipv6/conf/all/forwarding"
		}
		if err := a.host.SetSysctls(netutil.Sysctl{Key: key, Value: "1"}); err != nil {
			return err
		}
	}
	return nil
}

// configurePod works inside the namespace: settings, up, addresses, routes.
func (a *adding) configurePod() error {
	name := a.env.ifName
	var settings []netutil.Sysctl
	for _, g := range a.given {
		if g.addr.Is6() { // some runtimes start namespaces with IPv6 off
			settings = append(settings,
				netutil.Sysctl{Key: "ipv6/conf/lo/disable_ipv6", Value: "0"},
				netutil.Sysctl{Key: "ipv6/conf/" + name + "/disable_ipv6", Value: "0"})
			break
		}
	}
	settings = append(settings, a.podSettings()...)
	if err := a.pod.SetSysctls(settings...); err != nil {
		return err
	}
	link, err := a.pod.Index(name)
	if err != nil {
		return err
	}
	if err := a.guardLinkLocal(link); err != nil || a.conf.LinkDown {
		return err
	}
	if err := a.pod.SetLink(link, netutil.Change{Up: true}); err != nil {
		return err
	}
	for _, g := range a.given {
		if err := a.addPodAddr(link, g.prefix()); err != nil {
			return err
		}
	}
	if a.conf.Routed {
		if err := a.reachGateways(link); err != nil {
			return err
		}
	}
	a.routes = routesOf(a.conf, a.given)
	for _, r := range a.routes {
		route, err := kernelRoute(r, a.defaultVia)
		if err != nil {
			return err
		}
		if err := a.pod.AddRoute(link, route); err != nil {
			return err
		}
	}
	return nil
}

// defaultVia is the gateway of routes that name none: that of the first address of the family.
func (a *adding) defaultVia(v6 bool) netip.Addr {
	for _, g := range a.given {
		if g.addr.Is6() == v6 {
			return g.from.Gateway
		}
	}
	return netip.Addr{}
}

// scopeLink is RT_SCOPE_LINK of rtnetlink(7).
const scopeLink = 253

// kernelRoute translates a route of a result.
func kernelRoute(r *types.Route, defaultVia func(v6 bool) netip.Addr) (netutil.Route, error) {
	dst, err := netip.ParsePrefix(r.Dst.String())
	if err != nil {
		return netutil.Route{}, fmt.Errorf("route to %s: %w", r.Dst.String(), errors.Join(err, errdefs.ErrInvalidArgument))
	}
	out := netutil.Route{Dst: dst, MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority}
	if r.Table != nil {
		out.Table = *r.Table
	}
	if r.Scope != nil {
		out.Scope = *r.Scope
	}
	if via, ok := netip.AddrFromSlice(r.GW); ok {
		out.Via = via.Unmap()
	} else if out.Scope < scopeLink { // a destination on the link has no gateway
		out.Via = defaultVia(dst.Addr().Is6())
	}
	return out, nil
}

// prepareHostLink: the host end is without an IPv6 address of its own, and a port without IPv6 altogether. The bridge takes
// what comes in there before IPv6 would; but every link that IPv6 is up on has routes, the kernel keeps those of
// all links in one list, and each new port would wait until it has gone through it.
func (a *adding) prepareHostLink() error {
	conf := "ipv6/conf/" + a.lease.HostLink
	var settings []netutil.Sysctl
	if a.conf.Routed {
		link, err := a.host.Index(a.lease.HostLink)
		if err != nil {
			return err
		}
		// Before it comes up, and so in a message of its own: the kernel takes this attribute after the flags.
		if err := a.host.SetLink(link, netutil.Change{AddrGen: netutil.AddrGenNone}); err != nil {
			return err
		}
	} else {
		settings = append(settings, netutil.Sysctl{Key: conf + "/disable_ipv6", Value: "1", Optional: true})
	}
	settings = append(settings, netutil.Sysctl{Key: conf + "/accept_ra", Value: "0", Optional: true})
	if err := a.host.SetSysctls(settings...); err != nil {
		return err
	}
	return a.limitBandwidth()
}

// activate puts the host end on the bridge and brings it up: the commit of ADD. From here on its alias says
// whose it is.
func (a *adding) activate() error {
	link, err := a.host.Index(a.lease.HostLink)
	if err != nil {
		return err
	}
	alias := hostAlias(a.conf.Name, a.at)
	if a.conf.Routed {
		return a.route(link, alias)
	}
	if a.plainPort() {
		return a.host.SetLink(link, netutil.Change{Alias: alias, Master: a.bridge.Index, Up: true})
	}
	if err := a.host.SetLink(link, netutil.Change{Alias: alias, Master: a.bridge.Index}); err != nil {
		return err
	}
	if err := a.portSettings(link); err != nil {
		return err
	}
	return a.host.SetLink(link, netutil.Change{Up: true})
}
