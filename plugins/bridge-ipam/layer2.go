package bridgeipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/pkg/netutil"
)

// bridgeSettings are those of the bridge that keys ask for. They stay with it, as in the reference.
func (a *adding) bridgeSettings() error {
	index := a.bridge.Index
	if a.conf.CheckMAC {
		if err := a.host.KeepLinkLocal(index); err != nil {
			return err
		}
	}
	if a.conf.PromiscMode {
		if err := a.host.SetPromiscuous(index); err != nil {
			return err
		}
	}
	return a.bridgeVLANs()
}

// plainPort says whether joining the bridge and coming up may be one message, of which the kernel does the second
// first: nothing comes between them, and nobody minds that for a moment no frame is checked.
func (a *adding) plainPort() bool {
	return !hairpin(a.conf, a.lease) && !a.conf.PortIsolation && !a.conf.VLANs.Used() && a.lease.Guard == nil
}

// portSettings are possible once the host end is a port. It is still down.
func (a *adding) portSettings(index int) error {
	if hairpin(a.conf, a.lease) {
		if err := a.host.SetHairpin(index); err != nil {
			return err
		}
	}
	if a.conf.PortIsolation {
		if err := a.host.SetIsolated(index); err != nil {
			return err
		}
	}
	return joinVLANs(a.host, index, a.conf.VLANs)
}

// settle waits for duplicate address detection inside the pod, which takes the kernel a second or two.
func (a *adding) settle() error {
	if !a.conf.EnableDAD || !slices.ContainsFunc(a.given, func(g given) bool { return g.addr.Is6() }) {
		return nil
	}
	link, err := a.pod.Link(a.env.ifName)
	if err != nil {
		return err
	}
	return a.pod.AwaitAddrs(link.Index, 10*time.Second) // the reference's patience
}

// dadSettings: either the kernel looks for duplicates, and knows its own frames when a loop brings them back
// (RFC 7527), or it does not look at all.
func (a *adding) dadSettings() []netutil.Sysctl {
	conf := "ipv6/conf/" + a.env.ifName
	switch {
	case a.withoutIPv6():
		return nil
	case !a.conf.EnableDAD:
		return []netutil.Sysctl{{Key: conf + "/accept_dad", Value: "0", Optional: true}}
	}
	return []netutil.Sysctl{
		{Key: conf + "/accept_dad", Value: "1", Optional: true}, {Key: conf + "/enhanced_dad", Value: "1", Optional: true},
	}
}

// announceSettings have the kernel announce addresses when the pod's link comes up, where a neighbour may remember
// another MAC for them. Every announcement goes to all ports of a bridge: 1,000 pods hear of each new one.
func (a *adding) announceSettings() []netutil.Sysctl {
	count := map[bool]int{}
	for _, g := range a.given {
		count[g.addr.Is6()]++
	}
	// The MAC follows from the first address, see podMAC, and behind a gateway there is nobody else.
	follows := a.conf.MAC == nil && a.conf.Delegate == "" && a.conf.IsGateway
	var out []netutil.Sysctl
	if !a.conf.Routed && !(follows && count[false] <= 1) {
		out = append(out, netutil.Sysctl{Key: "ipv4/conf/" + a.env.ifName + "/arp_notify", Value: "1"})
	}
	if !a.conf.Routed && !(follows && (count[true] == 0 || count[true] == 1 && count[false] == 0)) {
		out = append(out, netutil.Sysctl{Key: "ipv6/conf/" + a.env.ifName + "/ndisc_notify", Value: "1", Optional: true})
	}
	return out
}

// withoutIPv6 says whether the pod has IPv4 addresses and routes only, and a way out by them. Its link has no IPv6 then,
// unless the configuration wants its link-local address. See DECISIONS.md.
func (a *adding) withoutIPv6() bool {
	return !a.conf.LinkLocal && a.ipv4Alone() &&
		!slices.ContainsFunc(a.conf.Routes, func(r *types.Route) bool { return r.Dst.IP.To4() == nil })
}

// ipv4Alone says whether the pod has IPv4 addresses only, and a way out by them.
func (a *adding) ipv4Alone() bool {
	return (a.conf.IsGateway || a.conf.Routed) && a.conf.Delegate == "" &&
		!slices.ContainsFunc(a.given, func(g given) bool { return g.addr.Is6() })
}

// routerSettings: a pod that is told its way out, or has IPv4 alone, needs no router to tell it another, nor does one
// without IPv6 for which somebody turns it on. Whoever advertises one on the bridge can only do harm (CVE-2020-10749), and asking for one
// floods its ports.
func (a *adding) routerSettings() []netutil.Sysctl {
	off := []netutil.Sysctl{{Key: "ipv6/conf/" + a.env.ifName + "/accept_ra", Value: "0", Optional: true}}
	if a.ipv4Alone() {
		return off
	}
	for _, r := range routesOf(a.conf, a.given) {
		if bits, size := r.Dst.Mask.Size(); bits == 0 && size == 128 {
			return off
		}
	}
	return nil
}

// podSettings are those of the pod's interface that depend on keys.
func (a *adding) podSettings() []netutil.Sysctl {
	return slices.Concat(a.announceSettings(), a.dadSettings(), a.routerSettings())
}

// addPodAddr gives the pod one address.
func (a *adding) addPodAddr(index int, p netip.Prefix) error {
	if a.conf.EnableDAD {
		return a.pod.AddAddrAfterDAD(index, p)
	}
	return a.pod.AddAddr(index, p)
}

// checkLayer2 looks at what keys made of the bridge and of the port.
func (c *checking) checkLayer2(bridge, port netutil.Link) {
	if c.conf.PromiscMode {
		if on, err := c.host.Promiscuous(bridge.Index); err != nil || !on {
			c.fault("bridge %s: is not promiscuous", bridge.Name)
		}
	}
	if port.Master == 0 {
		return // said already, and all else follows from it
	}
	if isolated, err := c.host.Isolated(port.Index); err != nil || isolated != c.conf.PortIsolation {
		c.fault("host link %s: isolated is %t, want %t", port.Name, isolated, c.conf.PortIsolation)
	}
	if !c.conf.VLANs.Used() {
		return
	}
	have, err := c.host.VLANs(port.Index)
	if err != nil {
		c.faults = append(c.faults, err)
	}
	want := vlansOf(c.conf.VLANs)
	for _, v := range want {
		if !slices.Contains(have, v) {
			c.fault("host link %s: VLAN %d is missing", port.Name, v.ID)
		}
	}
	for _, v := range have {
		if !slices.Contains(want, v) && !c.conf.VLANs.PreserveDefault {
			c.fault("host link %s: VLAN %d was not there", port.Name, v.ID)
		}
	}
}
