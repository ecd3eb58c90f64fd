package guard

import (
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil"
)

// Types of ICMPv6 (RFC 4861, RFC 2710, RFC 3810) and IGMP (RFC 2236) messages.
const (
	mldQuery            = 130
	mldReport           = 131
	mldDone             = 132
	routerAdvertisement = 134
	neighbourSolicit    = 135
	neighbourAdvertise  = 136
	redirect            = 137
	mldReport2          = 143
	igmpQuery           = 0x11
)

var (
	typeIPv4 = netutil.Is(netutil.FieldFrameType, 0x08, 0x00)
	typeARP  = netutil.Is(netutil.FieldFrameType, 0x08, 0x06)
	typeIPv6 = netutil.Is(netutil.FieldFrameType, 0x86, 0xdd)
	icmp6    = netutil.Is(netutil.FieldProtocol, unix.IPPROTO_ICMPV6)
	udp      = netutil.Is(netutil.FieldProtocol, unix.IPPROTO_UDP)
)

// rule is one rule of a chain, in words and for the kernel.
type rule struct {
	chain, comment string
	verdict        netutil.Part
	matches        []netutil.Part
}

func (n names) rules() []rule {
	return append([]rule{
		{n.frames, "foreign MAC", netutil.Drop(), []netutil.Part{netutil.PortIn(n.macPorts), netutil.PairNotIn(netutil.FieldFrameSource, n.macs)}},
		{n.frames, "", netutil.Goto(n.addr), []netutil.Part{netutil.PortIn(n.addrPorts)}},
		// What is not plain Ethernet is dropped: receivers look through a VLAN tag of 0 and through LLC/SNAP,
		// and rules do not (CVE-2021-27853, CVE-2021-27854, CVE-2021-27861, CVE-2021-27862).
		{n.addr, "", netutil.Goto(n.ip4), []netutil.Part{typeIPv4}},
		{n.addr, "", netutil.Goto(n.ip6), []netutil.Part{typeIPv6}},
		{n.addr, "", netutil.Goto(n.arp), []netutil.Part{typeARP}},
		{n.addr, "neither IP nor ARP", netutil.Drop(), nil},
	}, append(n.arpRules(), append(n.ip4Rules(), n.ip6Rules()...)...)...)
}

func (n names) arpRules() []rule {
	return []rule{
		{n.arp, "not for IPv4 on Ethernet", netutil.Drop(), []netutil.Part{netutil.IsNot(netutil.FieldARPFormat, 0, 1, 8, 0, 6, 4)}},
		{n.arp, "foreign MAC", netutil.Drop(), []netutil.Part{
			netutil.PortIn(n.macPorts), netutil.PairNotIn(netutil.FieldARPSourceMAC, n.macs)}},
		{n.arp, "", netutil.Accept(), []netutil.Part{netutil.PairIn(netutil.FieldARPSource, n.addrs4)}},
		{n.arp, "is an address in use?", netutil.Accept(), []netutil.Part{ // RFC 5227: no receiver learns from it
			netutil.Is(netutil.FieldARPOperation, 0, 1), netutil.Is(netutil.FieldARPSource, 0, 0, 0, 0)}},
		{n.arp, "foreign address", netutil.Drop(), nil},
	}
}

func (n names) ip4Rules() []rule {
	return []rule{
		{n.ip4, "foreign address", netutil.Drop(), []netutil.Part{netutil.PairNotIn(netutil.FieldSource4, n.addrs4)}},
		{n.ip4, "DHCP server", netutil.Drop(), []netutil.Part{udp, netutil.Is(netutil.FieldSourcePort, 0, 67)}},
		{n.ip4, "multicast query", netutil.Drop(), []netutil.Part{
			netutil.Is(netutil.FieldProtocol, unix.IPPROTO_IGMP), netutil.Is(netutil.FieldICMPType, igmpQuery)}},
	}
}

func (n names) ip6Rules() []rule {
	icmp := func(kind byte) []netutil.Part { return []netutil.Part{icmp6, netutil.Is(netutil.FieldICMPType, kind)} }
	unspecified := netutil.Is(netutil.FieldSource6, make([]byte, 16)...)
	rules := []rule{
		{n.ip6, "router advertisement", netutil.Drop(), icmp(routerAdvertisement)},
		{n.ip6, "redirect", netutil.Drop(), icmp(redirect)},
		{n.ip6, "multicast query", netutil.Drop(), icmp(mldQuery)},
		{n.ip6, "DHCP server", netutil.Drop(), []netutil.Part{udp, netutil.Is(netutil.FieldSourcePort, 2, 35)}}, // 547
		{n.ip6, "neighbour of a foreign address", netutil.Drop(),
			append(icmp(neighbourAdvertise), netutil.PairNotIn(netutil.FieldNDTarget, n.addrs6))},
		{n.ip6, "", netutil.Accept(), []netutil.Part{netutil.PairIn(netutil.FieldSource6, n.addrs6)}},
		{n.ip6, "is an address in use?", netutil.Accept(),
			append(icmp(neighbourSolicit), unspecified, netutil.PairIn(netutil.FieldNDTarget, n.addrs6))},
	}
	for _, kind := range []byte{mldReport, mldDone, mldReport2} { // sent before an address is ready
		rules = append(rules, rule{n.ip6, "", netutil.Accept(), append(icmp(kind), unspecified)})
	}
	return append(rules, rule{n.ip6, "foreign address", netutil.Drop(), nil})
}
