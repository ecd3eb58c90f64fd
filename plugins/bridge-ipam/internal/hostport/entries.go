package hostport

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
)

// maxOwner bounds an owner's name, in bytes; nft(8) shows comments up to 127.
const maxOwner = 120

// protocols are the numbers of IANA.
var protocols = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}

// family are the maps of IPv4 or IPv6.
type family struct {
	v6                               bool
	addr, any, loop, snat, self, all netutil.Map
}

var families = []family{familyOf(false), familyOf(true)}

func familyOf(v6 bool) family {
	suffix, addr := "4", netutil.KindAddr4
	if v6 {
		suffix, addr = "6", netutil.KindAddr6
	}
	name := func(s string) string { return prefix + s + suffix }
	port, endpoint := []netutil.Kind{netutil.KindProtocol, netutil.KindPort}, []netutil.Kind{addr, netutil.KindPort}
	return family{
		v6:   v6,
		addr: netutil.Map{Name: name("addr"), Key: []netutil.Kind{netutil.KindProtocol, addr, netutil.KindPort}, Value: endpoint},
		any:  netutil.Map{Name: name("any"), Key: port, Value: endpoint},
		loop: netutil.Map{Name: name("loop"), Key: port, Value: endpoint},
		snat: netutil.Map{Name: name("snat"), Key: []netutil.Kind{netutil.KindLink, addr, netutil.KindProtocol, netutil.KindPort}},
		self: netutil.Map{Name: name("self"), Key: []netutil.Kind{addr, addr}},
		all:  netutil.Map{Name: name("all"), Key: []netutil.Kind{addr, netutil.KindProtocol, netutil.KindPort}},
	}
}

// maps lists the maps of a family.
func (f family) maps() []netutil.Map {
	list := []netutil.Map{f.addr, f.any, f.snat, f.self, f.all}
	if f.v6 {
		list = append(list, f.loop)
	}
	return list
}

func mapNamed(name string) netutil.Map {
	for _, f := range families {
		for _, m := range f.maps() {
			if m.Name == name {
				return m
			}
		}
	}
	return netutil.Map{}
}

// element is an entry and the map that it is for.
type element struct {
	in netutil.Map
	netutil.Entry
	claim string // that it makes; empty for those that only go with one
}

// place identifies an element among all.
type place struct{ in, key string }

func (e element) place() place { return place{e.in.Name, string(e.Key)} }

// elements are all that a lease needs, each once.
func elements(l lease.Lease) []element {
	if l.HostPorts == nil {
		return nil
	}
	var out []element
	seen := map[place]bool{}
	for _, f := range l.HostPorts.Forwards {
		for _, e := range forward(*l.HostPorts, f) {
			if e.Comment = Owner(l); !seen[e.place()] {
				seen[e.place()] = true
				out = append(out, e)
			}
		}
	}
	return out
}

func forward(p lease.HostPorts, f lease.Forward) []element {
	proto, host, pod := protocols[f.Protocol], f.Host, f.Pod
	maps := families[0]
	if pod.Addr().Is6() {
		maps = families[1]
	}
	entry := func(in netutil.Map, key, value netutil.Tuple) element {
		e := element{in: in, Entry: netutil.Entry{Key: key, Value: value}}
		if value != nil {
			e.claim = f.Claim()
		}
		return e
	}
	var tuple netutil.Tuple
	to := tuple.Addr(pod.Addr()).Port(pod.Port())
	var out []element
	if host.Addr().IsUnspecified() {
		key := tuple.Protocol(proto).Port(host.Port())
		out = append(out, entry(maps.any, key, to))
		if p.Loopback && maps.v6 {
			out = append(out, entry(maps.loop, key, to))
		}
	} else {
		out = append(out, entry(maps.addr, tuple.Protocol(proto).Addr(host.Addr()).Port(host.Port()), to))
	}
	if !p.SNAT {
		return out
	}
	out = append(out,
		entry(maps.snat, tuple.Link(p.Link).Addr(pod.Addr()).Protocol(proto).Port(pod.Port()), nil),
		entry(maps.self, tuple.Addr(pod.Addr()).Addr(pod.Addr()), nil))
	if p.MasqAll {
		out = append(out, entry(maps.all, tuple.Addr(pod.Addr()).Protocol(proto).Port(pod.Port()), nil))
	}
	return out
}

// Owner names the owner of entries: its host link first. Whatever could end a quoted text is replaced.
func Owner(l lease.Lease) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == '"' || r == '\\' || r > '~' {
			return '_'
		}
		return r
	}, fmt.Sprintf("%s %s/%s/%s", l.HostLink, l.Network, l.ContainerID, l.IfName))
	return s[:min(len(s), maxOwner)]
}

// ownerOf takes an owner's name apart.
func ownerOf(comment string) (link, attachment string) {
	link, attachment, _ = strings.Cut(comment, " ")
	return link, attachment
}

// isOf says whether an owner is of a network. A name that was cut off in the network's says as much as is left.
func isOf(comment, network string) bool {
	_, attachment := ownerOf(comment)
	return attachment != "" && (strings.HasPrefix(attachment, network+"/") || strings.HasPrefix(network, attachment))
}

// podAddrs are the addresses that host ports lead to.
func podAddrs(p *lease.HostPorts) []netip.Addr {
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, f := range p.Forwards {
		if a := f.Pod.Addr(); !seen[a] {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out
}
