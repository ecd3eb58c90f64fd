package bridgeipam

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// result looks at the finished links and says what ADD made, after what earlier plugins of a chain made.
func (a *adding) result() (types.Result, error) {
	// Looking at a link also makes the kernel act on its carrier: from here on packets pass.
	host, err := a.host.Link(a.lease.HostLink)
	if err != nil {
		return nil, err
	}
	pod, err := a.pod.Link(a.env.ifName)
	if err != nil {
		return nil, err
	}
	dns, err := dnsOf(a.conf)
	if err != nil {
		return nil, err
	}
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	if a.conf.PrevResult != nil {
		res = a.conf.PrevResult
	}
	if !a.conf.Routed {
		// The MTU of a bridge follows its ports: it is not told. Its MAC does not.
		res.Interfaces = append(res.Interfaces, &types100.Interface{Name: a.bridge.Name, Mac: a.bridge.MAC.String()})
	}
	index := len(res.Interfaces) + 1
	res.Interfaces = append(res.Interfaces,
		&types100.Interface{Name: host.Name, Mac: host.MAC.String(), Mtu: host.MTU},
		&types100.Interface{Name: pod.Name, Mac: pod.MAC.String(), Mtu: pod.MTU, Sandbox: a.env.netns},
	)
	if a.gate.Index != a.bridge.Index { // of a VLAN; told as the reference tells it
		res.Interfaces = append(res.Interfaces, &types100.Interface{Name: a.gate.Name, Mac: a.gate.MAC.String()})
	}
	ifb, err := a.ifbInterface()
	if err != nil {
		return nil, err
	}
	res.Interfaces = append(res.Interfaces, ifb...)
	for _, g := range a.given {
		res.IPs = append(res.IPs, &types100.IPConfig{
			Interface: types100.Int(index), Address: ipNetOf(g.prefix()), Gateway: g.from.Gateway.AsSlice(),
		})
	}
	res.Routes = append(res.Routes, a.routes...)
	if a.conf.PrevResult == nil || !isEmptyDNS(dns) {
		res.DNS = dns
	}
	return res.GetAsVersion(a.version)
}

func ipNetOf(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// routesOf are the configured routes and, with isDefaultGateway, one default route for each family of which
// no configured one has a gateway.
func routesOf(conf *netconf.Config, addrs []given) []*types.Route {
	routes := append([]*types.Route(nil), conf.Routes...)
	if !conf.IsDefaultGateway {
		return routes
	}
	for _, g := range addrs {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if g.addr.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		found := false
		for _, r := range routes {
			found = found || r.GW != nil && r.Dst.String() == all.String()
		}
		if !found {
			routes = append(routes, &types.Route{Dst: ipNetOf(all), GW: g.from.Gateway.AsSlice()})
		}
	}
	return routes
}

// dnsOf: settings of the network win over those of the resolv.conf that ipam names.
func dnsOf(conf *netconf.Config) (types.DNS, error) {
	if !isEmptyDNS(conf.DNS) || conf.ResolvConf == "" {
		return conf.DNS, nil
	}
	dns, err := readResolvConf(conf.ResolvConf)
	if err != nil {
		return dns, fmt.Errorf("ipam.resolvConf %q: %w", conf.ResolvConf, err)
	}
	return dns, nil
}

func isEmptyDNS(d types.DNS) bool {
	return len(d.Nameservers) == 0 && d.Domain == "" && len(d.Search) == 0 && len(d.Options) == 0
}

// readResolvConf reads what resolv.conf(5) describes; of search and domain the last line counts.
func readResolvConf(path string) (types.DNS, error) {
	var dns types.DNS
	f, err := os.Open(path)
	if err != nil {
		return dns, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0][0] == '#' || fields[0][0] == ';' {
			continue
		}
		switch fields[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, fields[1])
		case "domain":
			dns.Domain = fields[1]
		case "search":
			dns.Search = fields[1:]
		case "options":
			dns.Options = append(dns.Options, fields[1:]...)
		}
	}
	return dns, lines.Err()
}
