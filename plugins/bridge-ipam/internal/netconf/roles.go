package netconf

import (
	"encoding/json"
	"strings"
)

// Names of plugins that a configuration may have in its type and in ipam.type.
const (
	self      = "bridge-ipam"
	hostLocal = "host-local" // as ipam.type: this plugin's allocator, which takes its place
)

// HostLocalDir is where the reference plugin host-local keeps its leases unless dataDir is given.
const HostLocalDir = "/var/lib/cni/networks"

// Roles say which part of the work is whose.
type Roles struct {
	// AddressesOnly: type names another plugin, which makes the link and runs this one for ipam.type.
	AddressesOnly bool
	// Delegate is another plugin that allocates the addresses; empty: this one does.
	Delegate string
	// Routed: a pod has a link of its own to the host, and a route on it; there is no bridge.
	Routed bool
	// HostLocalDir is a lease directory of host-local whose leases count; empty: there is none.
	HostLocalDir string
}

func (r rawIdentity) roles(ipamType, dataDir string) Roles {
	out := Roles{AddressesOnly: addressesOnly(r.Type, ipamType)}
	out.Routed = r.Mode == "routed" && !out.AddressesOnly
	if ipamType != "" && ipamType != self && ipamType != hostLocal {
		out.Delegate = ipamType
		return out
	}
	out.HostLocalDir = dataDir
	if dataDir == "" && ipamType == hostLocal {
		out.HostLocalDir = HostLocalDir
	}
	return out
}

func addressesOnly(pluginType, ipamType string) bool {
	return ipamType == self && pluginType != "" && pluginType != self
}

// rawAddresses are the keys that count when another plugin makes the link: all others are that one's.
type rawAddresses struct {
	rawIdentity
	IPAM rawIPAM `json:"ipam"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		IPs      []string     `json:"ips"`
		IPRanges [][]rawRange `json:"ipRanges"`
	} `json:"runtimeConfig"`
	PrevResult json.RawMessage `json:"prevResult"`
}

// decode reads the keys that are this plugin's in its role.
func (p *parser) decode(data []byte) error {
	if read(data, &p.raw, (*raw).members) && !addressesOnly(p.raw.Type, p.raw.IPAM.Type) {
		return nil
	}
	p.raw = raw{}
	var role struct {
		Type string `json:"type"`
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	if json.Unmarshal(data, &role) != nil || !addressesOnly(role.Type, role.IPAM.Type) {
		return decode(data, &p.raw) // which says what is wrong
	}
	var r rawAddresses
	if err := decode(data, &r); err != nil {
		return err
	}
	p.raw.rawIdentity, p.raw.IPAM, p.raw.PrevResult = r.rawIdentity, r.IPAM, r.PrevResult
	p.raw.Mode = ""
	p.raw.Args.CNI.IPs = r.Args.CNI.IPs
	p.raw.RuntimeConfig.IPs, p.raw.RuntimeConfig.IPRanges = r.RuntimeConfig.IPs, r.RuntimeConfig.IPRanges
	return nil // DNS of the network is added by the plugin that makes the link
}

// routed refuses what cannot be had without a bridge.
func (p *parser) routed(c *Config) {
	r := &p.raw
	if r.Mode != "" && r.Mode != "bridge" && r.Mode != "routed" {
		p.fault("mode %q: want \"bridge\" or \"routed\"", r.Mode)
	}
	if !c.Routed {
		return
	}
	c.IsGateway, c.IsDefaultGateway = true, true
	var keys []string
	for _, k := range []struct {
		asked bool
		key   string
	}{
		{r.Bridge != "", "bridge"}, {r.ForceAddress, "forceAddress"}, {r.HairpinMode, "hairpinMode"},
		{r.PromiscMode, "promiscMode"}, {r.PortIsolation, "portIsolation"}, {r.Vlan != 0, "vlan"}, {len(r.VlanTrunk) > 0, "vlanTrunk"},
		{r.MacSpoofChk, "macspoofchk"}, {r.IPSpoofChk != nil && *r.IPSpoofChk, "ipspoofchk"},
	} {
		if k.asked {
			keys = append(keys, k.key)
		}
	}
	if len(keys) > 0 {
		p.fault("%s: have no meaning with mode \"routed\"", strings.Join(keys, ", "))
	}
	if len(c.Sets) == 0 && c.Delegate == "" && len(p.faults) == 0 {
		p.fault("mode \"routed\": needs addresses, give ipam.ranges")
	}
}

// pluginNames: a type is the name of a program, never a path (CVE-2021-20206).
func (p *parser) pluginNames() {
	for _, t := range []struct{ key, value string }{{"type", p.raw.Type}, {"ipam.type", p.raw.IPAM.Type}} {
		if strings.ContainsRune(t.value, '/') || t.value == "." || t.value == ".." {
			p.fault("%s %q: want the name of a plugin, without '/'", t.key, t.value)
		}
	}
}
