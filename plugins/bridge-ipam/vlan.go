package bridgeipam

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// defaultVLAN is the one that the kernel puts every new port into, unless the bridge names another.
const defaultVLAN = 1

// vlansOf lists the VLANs of a port. The native one of a trunk that names none is the default VLAN, so that
// frames without a tag keep a place.
func vlansOf(v netconf.VLANs) []netutil.VLAN {
	var out []netutil.VLAN
	seen := map[int]bool{}
	add := func(id int, native bool) {
		if !seen[id] {
			seen[id] = true
			out = append(out, netutil.VLAN{ID: id, Native: native})
		}
	}
	switch {
	case v.Native != 0:
		add(v.Native, true)
	case len(v.Trunk) > 0:
		add(defaultVLAN, true)
	}
	for _, r := range v.Trunk {
		for id := r.First; id <= r.Last; id++ {
			add(id, false)
		}
	}
	return out
}

// joinVLANs makes a port a member of its VLANs. The kernel's default stays with PreserveDefault only: what is
// sent to it leaves by the port without a tag, and what comes in without one is of the native VLAN.
func joinVLANs(h *netutil.Handle, index int, v netconf.VLANs) error {
	if !v.Used() {
		return nil
	}
	want := vlansOf(v)
	if err := h.AddVLANs(index, want...); err != nil {
		return err
	}
	if v.PreserveDefault {
		return nil
	}
	have, err := h.VLANs(index)
	if err != nil {
		return err
	}
	for _, vlan := range have {
		if slices.Contains(want, vlan) {
			continue
		}
		if err := h.DeleteVLAN(index, vlan.ID); err != nil {
			return err
		}
	}
	return nil
}

// bridgeVLANs makes the bridge look at VLANs, and finds the link for the gateway in the one that is asked for.
func (a *adding) bridgeVLANs() error {
	v := a.conf.VLANs
	if !v.Used() {
		return nil
	}
	if err := a.host.FilterVLANs(a.bridge.Index); err != nil {
		return fmt.Errorf("vlan or vlanTrunk: %w", err)
	}
	if v.Native == 0 || !a.conf.IsGateway {
		return nil
	}
	link, err := a.host.Link(gatewayLink(a.conf.Bridge, v.Native))
	if errdefs.IsNotFound(err) || err == nil && !link.Up {
		link, err = a.makeVLANGateway()
	}
	a.gate = link
	return err
}

// makeVLANGateway makes the link <bridge>.<vlan>: as in the reference the end of a veth pair whose other end
// is a port in the VLAN. So the bridge's own port stays out of it, and no VLAN device is needed. Another ADD
// may be at it too: each step may be repeated, and the link comes up last.
func (a *adding) makeVLANGateway() (netutil.Link, error) {
	name := gatewayLink(a.conf.Bridge, a.conf.VLANs.Native)
	mac, err := netutil.RandomMAC()
	if err != nil {
		return netutil.Link{}, err
	}
	made := a.host.AddVeth(netutil.Veth{Name: gatewayPort(name), Peer: name, PeerMAC: mac, MTU: a.bridge.MTU})
	if made != nil && !errdefs.IsAlreadyExists(made) {
		return netutil.Link{}, made
	}
	port, err := a.host.Link(gatewayPort(name))
	if err != nil {
		return port, errors.Join(made, err)
	}
	// Crash here: the next ADD goes on, and GC finds the port by its alias or as one of the bridge's.
	err = a.host.SetLink(port.Index, netutil.Change{
		Alias: gatewayAlias(name), Master: a.bridge.Index, AddrGen: netutil.AddrGenNone,
	})
	if err != nil {
		return port, err
	}
	only := netconf.VLANs{Native: a.conf.VLANs.Native, PreserveDefault: a.conf.VLANs.PreserveDefault}
	if err := joinVLANs(a.host, port.Index, only); err != nil {
		return port, err
	}
	err = a.host.SetSysctls(
		netutil.Sysctl{Key: "ipv6/conf/" + port.Name + "/accept_ra", Value: "0", Optional: true},
		netutil.Sysctl{Key: "ipv6/conf/" + name + "/accept_ra", Value: "0", Optional: true},
		netutil.Sysctl{Key: "ipv6/conf/" + name + "/accept_dad", Value: "0", Optional: true},
	)
	if err != nil {
		return port, err
	}
	if err := a.host.SetLink(port.Index, netutil.Change{Up: true}); err != nil {
		return port, err
	}
	gate, err := a.host.Link(name)
	if err != nil {
		return gate, err
	}
	return gate, a.host.SetLink(gate.Index, netutil.Change{Up: true})
}

// gate finds the link that has the gateway's addresses.
func (c *checking) gate(bridge netutil.Link) netutil.Link {
	if c.conf.VLANs.Native == 0 {
		return bridge
	}
	link, err := c.host.Link(gatewayLink(bridge.Name, c.conf.VLANs.Native))
	switch {
	case !c.conf.IsGateway:
	case err != nil:
		c.faults = append(c.faults, err)
	case !link.Up:
		c.fault("gateway link %s: is down", link.Name)
	}
	return link
}

// gatewayLink is the name of the link that has the gateway's addresses of a VLAN, gatewayPort that of the
// port behind it.
func gatewayLink(bridge string, vlan int) string { return fmt.Sprintf("%s.%d", bridge, vlan) }

func gatewayPort(gateway string) string {
	sum := sha256.Sum256([]byte(gateway))
	return "vgw" + hex.EncodeToString(sum[:6])
}

// gatewayAlias marks the ports of gateways that we made.
func gatewayAlias(gateway string) string { return "bridge-ipam/gateway " + gateway }

func isGatewayOf(l netutil.Link, bridge string) bool {
	return l.Kind == "veth" && strings.HasPrefix(l.Alias, gatewayAlias(bridge+"."))
}

// statusVLANs: whether the kernel can filter VLANs shows once there is a bridge.
func statusVLANs(host *netutil.Handle, conf *netconf.Config) error {
	br, err := host.Link(conf.Bridge)
	if !conf.VLANs.Used() || err != nil || br.Kind != "bridge" {
		return nil // ADD makes the bridge
	}
	return host.CanFilterVLANs(br.Index)
}
