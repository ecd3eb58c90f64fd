package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/ipam"
)

// Bounds of an MTU: RFC 791, RFC 8200, and the largest a veth takes.
const (
	minMTU  = 68
	minMTU6 = 1280
	maxMTU  = 65535
)

// Bounds that keep a configuration without sense from costing time and memory.
const (
	maxRanges = 1024
	maxFaults = 32 // that are told; the others are counted
)

// parser collects faults, so that a user sees all of them at once.
type parser struct {
	raw         raw
	faults      []string
	more        int // faults beyond maxFaults
	unsupported []string
	warnings    []string
}

func (p *parser) fault(format string, args ...any) {
	if len(p.faults) == maxFaults {
		p.more++
		return
	}
	p.faults = append(p.faults, fmt.Sprintf(format, args...))
}

// err is code 2 when something is asked for that is not built, else code 7.
func (p *parser) err() error {
	if p.more > 0 {
		p.faults = append(p.faults, fmt.Sprintf("and %d more", p.more))
	}
	all := append(p.unsupported, p.faults...)
	if len(all) == 0 {
		return nil
	}
	e := fault(strings.Join(all, "; "))
	if len(p.unsupported) > 0 {
		e.Code = types.ErrUnsupportedField
	}
	return &faulty{e, all}
}

// faulty is an error of more than one fault.
type faulty struct {
	err *types.Error
	all []string
}

func (f *faulty) Error() string { return f.err.Error() }
func (f *faulty) Unwrap() error { return f.err }

// Parse reads a configuration. cniArgs is the value of CNI_ARGS.
func Parse(data []byte, cniArgs string) (*Config, error) {
	p := &parser{}
	if err := p.decode(data); err != nil {
		return nil, err
	}
	id, err := p.raw.identity(p.raw.IPAM.Type, p.raw.IPAM.DataDir)
	if err != nil {
		return nil, err
	}
	args, err := parseArgs(cniArgs)
	if err != nil {
		return nil, err
	}
	r := &p.raw
	c := &Config{
		Identity: id, IsGateway: r.IsGateway || r.IsDefaultGateway, IsDefaultGateway: r.IsDefaultGateway,
		ForceAddress: r.ForceAddress, IPMasq: r.IPMasq, Hairpin: r.HairpinMode, MTU: r.MTU,
		ResolvConf: r.IPAM.ResolvConf, DNS: r.DNS,
	}
	p.pluginNames()
	p.masqBackend()
	c.MAC = p.mac(args.mac)
	if c.Delegate == "" { // else these keys are the other plugin's
		c.Sets = p.sets(id.CNIVersion)
		c.Requested = p.requested(args.ips, c.Sets)
		c.Routes = p.routes()
	}
	p.routed(c)
	p.mtu(c)
	p.bandwidth(c)
	c.HostPorts = p.hostPorts()
	p.layer2(c)
	c.Warnings = p.warnings
	if err := p.err(); err != nil {
		return nil, err
	}
	if len(r.PrevResult) > 0 && string(r.PrevResult) != "null" {
		c.PrevResult, err = ParseResult("prevResult", id.CNIVersion, r.PrevResult)
	}
	return c, err
}

// masqBackend accepts both of the reference's values, and does nftables for either.
func (p *parser) masqBackend() {
	if b := p.raw.IPMasqBackend; b != nil && *b != "" && *b != "iptables" && *b != "nftables" {
		p.fault("ipMasqBackend %q: want \"nftables\" (or \"iptables\", which means the same here)", *b)
	}
}

func (p *parser) mac(fromArgs string) net.HardwareAddr {
	for _, m := range []struct{ key, value string }{
		{"runtimeConfig.mac", p.raw.RuntimeConfig.MAC}, {"args.cni.mac", p.raw.Args.CNI.MAC}, {"CNI_ARGS MAC", fromArgs},
	} {
		if m.value == "" {
			continue
		}
		mac, err := net.ParseMAC(m.value)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 || isZero(mac) {
			p.fault("%s %q: want a unicast address such as \"02:00:5e:00:53:01\"", m.key, m.value)
		}
		return mac
	}
	return nil
}

func isZero(mac net.HardwareAddr) bool {
	for _, b := range mac {
		if b != 0 {
			return false
		}
	}
	return true
}

func (p *parser) mtu(c *Config) {
	if c.MTU == 0 {
		return
	}
	lowest := minMTU
	for _, s := range c.Subnets() {
		if s.Addr().Is6() {
			lowest = minMTU6
		}
	}
	if c.MTU < lowest || c.MTU > maxMTU {
		p.fault("mtu %d: want 0 (automatic) or %d to %d", c.MTU, lowest, maxMTU)
	}
}

// sets puts the ranges of the runtime first, then the single range of old configurations, then the list.
func (p *parser) sets(cniVersion string) []ipam.Set {
	ip := &p.raw.IPAM
	if count := countRanges(ip.Ranges) + countRanges(p.raw.RuntimeConfig.IPRanges); count > maxRanges {
		p.fault("ipam.ranges: %d ranges, at most %d are possible", count, maxRanges)
		return nil
	}
	var sets []ipam.Set
	for i, s := range p.raw.RuntimeConfig.IPRanges {
		sets = append(sets, p.set(fmt.Sprintf("runtimeConfig.ipRanges[%d]", i), s))
	}
	if ip.rawRange != (rawRange{}) {
		sets = append(sets, p.set("", []rawRange{ip.rawRange}))
	}
	for i, s := range ip.Ranges {
		sets = append(sets, p.set(fmt.Sprintf("ipam.ranges[%d]", i), s))
	}
	if ip.Type != "" && len(sets) == 0 {
		p.fault("ipam.ranges: missing, give at least one such as [[{\"subnet\": \"10.88.0.0/16\"}]]")
	}
	if len(p.faults) > 0 {
		return sets
	}
	if err := ipam.CheckSets(sets); err != nil {
		p.fault("ipam.ranges: %s", oneLine(err))
	}
	p.oneOfEach(cniVersion, sets)
	return sets
}

func countRanges(sets [][]rawRange) int {
	count := len(sets)
	for _, s := range sets {
		count += len(s)
	}
	return count
}

// oneOfEach: results before 0.3.0 have room for one address of each family.
func (p *parser) oneOfEach(cniVersion string, sets []ipam.Set) {
	old := cniVersion == "" || cniVersion == "0.1.0" || cniVersion == "0.2.0"
	count := map[bool]int{}
	for _, s := range sets {
		if len(s) > 0 {
			count[s[0].Subnet.Addr().Is6()]++
		}
	}
	if old && (count[false] > 1 || count[true] > 1) {
		p.fault("ipam.ranges: cniVersion %s has room for one address per family", cniVersion)
	}
}

func (p *parser) set(key string, ranges []rawRange) ipam.Set {
	var s ipam.Set
	if len(ranges) == 0 {
		p.fault("%s: empty, want at least one range", key)
	}
	for i, r := range ranges {
		at := "ipam"
		if key != "" {
			at = fmt.Sprintf("%s[%d]", key, i)
		}
		s = append(s, p.oneRange(at, r))
	}
	return s
}

func (p *parser) oneRange(at string, r rawRange) ipam.Range {
	before := len(p.faults)
	var subnet netip.Prefix
	if r.Subnet != "" {
		var err error
		if subnet, err = netip.ParsePrefix(r.Subnet); err != nil || subnet.Addr().Is4In6() {
			p.fault("%s.subnet %q: want one such as \"10.88.0.0/16\"", at, r.Subnet)
		}
	}
	first := p.addr(at+".rangeStart", r.RangeStart)
	last := p.addr(at+".rangeEnd", r.RangeEnd)
	gateway := p.addr(at+".gateway", r.Gateway)
	if len(p.faults) > before {
		return ipam.Range{}
	}
	out, err := ipam.NewRange(subnet, first, last, gateway)
	if err != nil {
		p.fault("%s.%s", at, err)
	}
	return out
}

func (p *parser) addr(key, value string) netip.Addr {
	if value == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(value)
	if err != nil || a.Zone() != "" {
		p.fault("%s %q: want an address such as \"10.88.0.5\"", key, value)
		return netip.Addr{}
	}
	return a.Unmap()
}

// requested joins the addresses asked for by CNI_ARGS, args and the runtime. Each must be in a range.
func (p *parser) requested(fromArgs []string, sets []ipam.Set) []netip.Addr {
	var out []netip.Addr
	for _, list := range []struct {
		key string
		ips []string
	}{
		{"CNI_ARGS IP", fromArgs}, {"args.cni.ips", p.raw.Args.CNI.IPs}, {"runtimeConfig.ips", p.raw.RuntimeConfig.IPs},
	} {
		for _, s := range list.ips {
			a, err := parseIP(s)
			if err != nil {
				p.fault("%s %q: want an address such as \"10.88.0.5\" or \"10.88.0.5/16\"", list.key, s)
				continue
			}
			if !inSets(a, sets) {
				p.fault("%s %s: not in the ranges of this network", list.key, a)
			}
			out = append(out, a)
		}
	}
	if len(out) > len(sets) && len(p.faults) == 0 {
		p.fault("%d addresses are asked for, %d range sets yield one each", len(out), len(sets))
	}
	return out
}

func parseIP(s string) (netip.Addr, error) {
	if prefix, err := netip.ParsePrefix(s); err == nil {
		return prefix.Addr().Unmap(), nil
	}
	a, err := netip.ParseAddr(s)
	if err == nil && a.Zone() != "" {
		err = errors.New("zone")
	}
	return a.Unmap(), err
}

func inSets(a netip.Addr, sets []ipam.Set) bool {
	for _, s := range sets {
		if _, ok := s.Find(a); ok {
			return true
		}
	}
	return false
}

func (p *parser) routes() []*types.Route {
	var out []*types.Route
	for i, data := range p.raw.IPAM.Routes {
		r, err := readRoute(data)
		if err != nil {
			p.fault("ipam.routes[%d]: %s; want one such as {\"dst\": \"0.0.0.0/0\"}", i, err)
			continue
		}
		switch {
		case r.Dst.IP == nil:
			p.fault("ipam.routes[%d].dst: missing, give one such as \"0.0.0.0/0\"", i)
		case r.GW != nil && (r.GW.To4() == nil) != (r.Dst.IP.To4() == nil):
			p.fault("ipam.routes[%d].gw %s: not of the family of dst %s", i, r.GW, r.Dst.String())
		case p.routeNumbers(i, r):
			out = append(out, &r)
		}
	}
	return out
}

// routeNumbers says whether the numbers of a route fit into the kernel's fields.
func (p *parser) routeNumbers(i int, r types.Route) bool {
	before := len(p.faults)
	for _, n := range []struct {
		key        string
		value, max int
	}{
		{"mtu", r.MTU, math.MaxUint32}, {"advmss", r.AdvMSS, math.MaxUint32}, {"priority", r.Priority, math.MaxUint32},
		{"table", valueOf(r.Table), math.MaxUint32}, {"scope", valueOf(r.Scope), math.MaxUint8},
	} {
		if n.value < 0 || n.value > n.max {
			p.fault("ipam.routes[%d].%s %d: want 0 to %d", i, n.key, n.value, n.max)
		}
	}
	return len(p.faults) == before
}

// ParseResult converts the result of another plugin, or of an earlier ADD, to the newest form. A result
// that names no version has that of the configuration; what it is called in errors is up to the caller.
func ParseResult(what, cniVersion string, data []byte) (*types100.Result, error) {
	var generic map[string]any
	if err := json.Unmarshal(data, &generic); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, what+": want an object", "")
	}
	for key, value := range generic { // the library follows each of them when it converts
		list, _ := value.([]any)
		if i := slices.Index(list, nil); i >= 0 {
			return nil, fault(fmt.Sprintf("%s.%s[%d]: null", what, key, i))
		}
	}
	conf := types.NetConf{CNIVersion: cniVersion, RawPrevResult: generic}
	if err := version.ParsePrevResult(&conf); err != nil {
		return nil, fault(what + ": " + err.Error())
	}
	res, err := types100.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return nil, fault(what + ": " + err.Error())
	}
	return res, nil
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
