package netutil

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of nfnetlink_conntrack.h that the library does not name.
const (
	ctaFilter           = 25
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	ctaFilterIPSrc      = 1 << 0
	ctaFilterIPDst      = 1 << 1
	ctaFilterProtoNum   = 1 << 3
	ctaFilterDstPort    = 1 << 5
)

// FlushUDP makes the kernel forget the UDP flows of which addr is an end before or behind translation:
// a datagram never says that a flow is over, so an old translation would hold for a new owner. Where
// connection tracking is not loaded there is nothing to do.
func FlushUDP(addrs ...netip.Addr) error {
	var list []flows
	for _, addr := range addrs {
		list = append(list,
			flows{addr: addr, protocol: unix.IPPROTO_UDP}, flows{addr: addr, protocol: unix.IPPROTO_UDP, answers: true})
	}
	return flush(list)
}

// FlushAnswersOf makes the kernel forget the flows, of whatever protocol, that addr answers, be it under
// another address; see FlushUDP.
func FlushAnswersOf(addrs ...netip.Addr) error {
	var list []flows
	for _, addr := range addrs {
		list = append(list, flows{addr: addr, answers: true})
	}
	return flush(list)
}

// FlushUDPTo makes the kernel forget the UDP flows to a port of some addresses; see FlushUDP.
func FlushUDPTo(port uint16, addrs ...netip.Addr) error {
	var list []flows
	for _, addr := range addrs {
		list = append(list, flows{addr: addr, protocol: unix.IPPROTO_UDP, port: port})
	}
	return flush(list)
}

// flows describes tracked flows.
type flows struct {
	addr     netip.Addr
	answers  bool   // addr answers; else it asks, or with a port is asked
	protocol uint8  // 0: any
	port     uint16 // that is asked; 0: any
}

func (f flows) String() string {
	if f.port != 0 {
		return netip.AddrPortFrom(f.addr, f.port).String()
	}
	return f.addr.String()
}

func flush(list []flows) error {
	count, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if errors.Is(err, os.ErrNotExist) || strings.TrimSpace(string(count)) == "0" {
		return nil
	}
	var faults []error
	dump := map[uint8][]netlink.CustomConntrackFilter{}
	for _, f := range list {
		done, err := f.flush()
		if err != nil {
			faults = append(faults, fmt.Errorf("flush flows of %s: %w", f, classify(err)))
		}
		if !done {
			dump[f.family()] = append(dump[f.family()], f)
		}
	}
	for family, filters := range dump {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(family), filters...); err != nil {
			faults = append(faults, fmt.Errorf("flush flows of %s: %w", filters, classify(err)))
		}
	}
	return errors.Join(faults...)
}

// flush has the kernel do the search, where it can: since Linux 6.9, and not for IPv6, where it takes all
// addresses but the one asked for (ctnetlink_filter_match_tuple, as late as 6.18). Else a dump is searched.
func (f flows) flush() (done bool, err error) {
	if f.addr.Is6() {
		return false, nil
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: f.family(), Version: nl.NFNETLINK_V0})
	for _, attr := range f.filter() {
		req.AddData(attr)
	}
	_, err = req.Execute(unix.NETLINK_NETFILTER, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return true, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	}
	return true, err
}

func (f flows) family() uint8 {
	if f.addr.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// filter is one tuple of IPv4 to compare with and the fields of it that count.
func (f flows) filter() []*nl.RtAttr {
	kind, flags := nl.CTA_IP_V4_SRC, uint32(ctaFilterIPSrc)
	if f.port != 0 {
		kind, flags = nl.CTA_IP_V4_DST, ctaFilterIPDst|ctaFilterDstPort
	}
	tuple := nl.CTA_TUPLE_ORIG
	if f.answers {
		tuple = nl.CTA_TUPLE_REPLY
	}
	match := nl.NewRtAttr(tuple|unix.NLA_F_NESTED, nil)
	match.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil).AddRtAttr(kind, f.addr.AsSlice())
	if f.protocol != 0 {
		proto := match.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
		proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{f.protocol})
		flags |= ctaFilterProtoNum
		if f.port != 0 {
			proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, f.port))
		}
	}
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	for attr, t := range map[int]int{ctaFilterOrigFlags: nl.CTA_TUPLE_ORIG, ctaFilterReplyFlags: nl.CTA_TUPLE_REPLY} {
		if t != tuple {
			filter.AddRtAttr(attr, nl.Uint32Attr(0))
			continue
		}
		filter.AddRtAttr(attr, nl.Uint32Attr(flags))
	}
	return []*nl.RtAttr{match, filter}
}

// MatchConntrackFlow is what the library asks of each flow of a dump.
func (f flows) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	ip := f.addr.AsSlice()
	switch {
	case f.protocol != 0 && c.Forward.Protocol != f.protocol:
		return false
	case f.port != 0:
		return c.Forward.DstPort == f.port && c.Forward.DstIP.Equal(ip)
	case f.answers:
		return c.Reverse.SrcIP.Equal(ip)
	}
	return c.Forward.SrcIP.Equal(ip)
}
