package bridgeipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/masq"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// checking is one CHECK. It collects all that is not as ADD left it.
type checking struct {
	*plugin
	conf  *netconf.Config
	host  *netutil.Handle
	pod   *netutil.Handle
	lease lease.Lease

	index  int // of the container's interface in prevResult
	ips    []netip.Prefix
	faults []error
}

func (p *plugin) check() error {
	conf, err := netconf.Parse(p.config, p.env.args)
	if err != nil {
		return err
	}
	if conf.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "prevResult: missing, CHECK needs the result of ADD", "")
	}
	ns, err := p.openNS()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	host, pod, err := handles(ns)
	if err != nil {
		return err
	}
	defer host.Close()
	defer pod.Close()
	c := &checking{plugin: p, conf: conf, host: host, pod: pod}
	if err := c.findInterface(); err != nil {
		return err
	}
	c.checkLease()
	c.checkPod()
	c.checkHost()
	if len(c.faults) == 0 {
		return nil
	}
	msg := strings.ReplaceAll(errors.Join(c.faults...).Error(), "\n", "; ")
	return types.NewError(types.ErrInternal, fmt.Sprintf("%s of %s: %s", p.env.ifName, p.env.containerID, msg), "")
}

func (c *checking) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

// findInterface finds the container's interface in prevResult, and its addresses.
func (c *checking) findInterface() error {
	prev := c.conf.PrevResult
	c.index = slices.IndexFunc(prev.Interfaces, func(i *types100.Interface) bool {
		return i.Name == c.env.ifName && i.Sandbox != ""
	})
	if c.index < 0 {
		return types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("prevResult.interfaces: none is %s in a sandbox", c.env.ifName), "")
	}
	for _, ip := range prev.IPs {
		if ip.Interface == nil || *ip.Interface != c.index {
			continue
		}
		p, err := netip.ParsePrefix(ip.Address.String())
		if err != nil {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("prevResult.ips: %s", err), "")
		}
		c.ips = append(c.ips, p)
	}
	return nil
}

func (c *checking) checkLease() {
	l, err := lease.New(c.conf.DataDir, c.conf.Name, c.bootID).Find(c.env.attachment())
	if err != nil {
		c.faults = append(c.faults, err)
		return
	}
	c.lease = l
	for _, addr := range l.Addresses {
		if !slices.ContainsFunc(c.ips, func(p netip.Prefix) bool { return p.Addr() == addr }) {
			c.fault("lease: %s is not in prevResult", addr)
		}
	}
	for _, p := range c.ips {
		if !slices.Contains(l.Addresses, p.Addr()) {
			c.fault("lease: %s is not leased", p.Addr())
		}
	}
	switch {
	case l.Masquerade != "":
		if err := masq.Check(l.Masquerade, l.Addresses); err != nil {
			c.fault("masquerade: %w", err)
		}
	case c.conf.IPMasq && len(l.Addresses) > 0:
		c.fault("masquerade: was never set up, ipMasq is on now")
	}
}

func (c *checking) checkPod() {
	link, err := c.pod.Link(c.env.ifName)
	if err != nil {
		c.faults = append(c.faults, err)
		return
	}
	c.sameLink("container", link, c.conf.PrevResult.Interfaces[c.index])
	have, err := c.pod.Addrs(link.Index)
	if err != nil {
		c.faults = append(c.faults, err)
	}
	for _, p := range c.ips {
		if !slices.Contains(have, p) {
			c.fault("address %s: not on %s", p, link.Name)
		}
	}
	for _, r := range c.conf.PrevResult.Routes {
		route, err := kernelRoute(r, c.defaultVia)
		if err != nil {
			c.faults = append(c.faults, err)
			continue
		}
		has, err := c.pod.HasRoute(route)
		if err != nil {
			c.faults = append(c.faults, err)
		} else if !has {
			c.fault("route to %s: missing", route.Dst)
		}
	}
}

// defaultVia is the gateway that ADD used for routes that name none.
func (c *checking) defaultVia(v6 bool) netip.Addr {
	for _, ip := range c.conf.PrevResult.IPs {
		if ip.Interface == nil || *ip.Interface != c.index || (ip.Address.IP.To4() == nil) != v6 {
			continue
		}
		via, _ := netip.AddrFromSlice(ip.Gateway)
		return via.Unmap()
	}
	return netip.Addr{}
}

func (c *checking) checkHost() {
	bridge, err := c.host.Link(c.conf.Bridge)
	if err != nil {
		c.faults = append(c.faults, err)
		return
	}
	if bridge.Kind != "bridge" || !bridge.Up {
		c.fault("bridge %s: is a %s, up: %t", bridge.Name, bridge.Kind, bridge.Up)
	}
	c.sameLink("bridge", bridge, c.recorded(bridge.Name))
	c.checkGateways(c.gate(bridge))

	name := hostLink(c.env.attachment())
	link, err := c.host.Link(name)
	if err != nil {
		c.faults = append(c.faults, err)
		return
	}
	c.sameLink("host", link, c.recorded(name))
	if link.Master != bridge.Index {
		c.fault("host link %s: not on bridge %s", name, bridge.Name)
	}
	if hairpin, err := c.host.Hairpin(link.Index); link.Master != 0 && (err != nil || hairpin != c.conf.Hairpin) {
		c.fault("host link %s: hairpin mode is %t, want %t", name, hairpin, c.conf.Hairpin)
	}
	c.checkLayer2(bridge, link)
	c.checkBandwidth(link)
	c.checkGuard()
}

// recorded finds a host interface in prevResult; nil when it is not there.
func (c *checking) recorded(name string) *types100.Interface {
	for _, i := range c.conf.PrevResult.Interfaces {
		if i.Name == name && i.Sandbox == "" {
			return i
		}
	}
	return nil
}

func (c *checking) sameLink(what string, link netutil.Link, want *types100.Interface) {
	if want == nil {
		c.fault("%s link %s: not in prevResult", what, link.Name)
		return
	}
	if want.Mac != "" && !strings.EqualFold(want.Mac, link.MAC.String()) {
		c.fault("%s link %s: MAC is %s, was %s", what, link.Name, link.MAC, want.Mac)
	}
	if want.Mtu != 0 && want.Mtu != link.MTU {
		c.fault("%s link %s: MTU is %d, was %d", what, link.Name, link.MTU, want.Mtu)
	}
	if link.Kind == "veth" && c.lease.MTU != 0 && c.lease.MTU != link.MTU {
		c.fault("%s link %s: MTU is %d, was %d", what, link.Name, link.MTU, c.lease.MTU)
	}
	if down := what == "container" && c.conf.LinkDown; !link.Up && !down {
		c.fault("%s link %s: is down", what, link.Name)
	}
}

// checkGateways: with isGateway, the bridge has the gateway of each address.
func (c *checking) checkGateways(bridge netutil.Link) {
	if !c.conf.IsGateway {
		return
	}
	have, err := c.host.Addrs(bridge.Index)
	if err != nil {
		c.faults = append(c.faults, err)
		return
	}
	for _, ip := range c.conf.PrevResult.IPs {
		gw, ok := netip.AddrFromSlice(ip.Gateway)
		if !ok || ip.Interface == nil || *ip.Interface != c.index {
			continue
		}
		bits, _ := ip.Address.Mask.Size()
		if want := netip.PrefixFrom(gw.Unmap(), bits); !slices.Contains(have, want) {
			c.fault("gateway %s: not on %s %s", want, bridge.Kind, bridge.Name)
		}
	}
}
