package netutil

import (
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
	ctaFilterProtoNum   = 1 << 3
)

// FlushUDP makes the kernel forget the UDP flows of which addr is an end before or behind translation:
// a datagram never says that a flow is over, so an old translation would hold for a new owner. Where
// connection tracking is not loaded there is nothing to do.
func FlushUDP(addrs ...netip.Addr) error {
	count, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if errors.Is(err, os.ErrNotExist) || strings.TrimSpace(string(count)) == "0" {
		return nil
	}
	var faults []error
	for _, addr := range addrs {
		for _, tuple := range []int{nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_REPLY} {
			if err := flushUDP(addr, tuple); err != nil {
				faults = append(faults, fmt.Errorf("flush UDP flows of %s: %w", addr, classify(err)))
			}
		}
	}
	return errors.Join(faults...)
}

// flushUDP has the kernel do the search (Linux 6.9 and later), and else searches a dump.
func flushUDP(addr netip.Addr, tuple int) error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	family, kind := uint8(unix.AF_INET), nl.CTA_IP_V4_SRC
	if addr.Is6() {
		family, kind = unix.AF_INET6, nl.CTA_IP_V6_SRC
	}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})

	match := nl.NewRtAttr(tuple|unix.NLA_F_NESTED, nil)
	match.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil).AddRtAttr(kind, addr.AsSlice())
	match.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil).AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_UDP})
	req.AddData(match)

	flags := map[int]uint32{tuple: ctaFilterIPSrc | ctaFilterProtoNum}
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	filter.AddRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(flags[nl.CTA_TUPLE_ORIG]))
	filter.AddRtAttr(ctaFilterReplyFlags, nl.Uint32Attr(flags[nl.CTA_TUPLE_REPLY]))
	req.AddData(filter)

	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return flushUDPByDump(addr)
	}
	return err
}

func flushUDPByDump(addr netip.Addr) error {
	family := netlink.InetFamily(unix.AF_INET)
	if addr.Is6() {
		family = unix.AF_INET6
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, udpOf(addr))
	return err
}

// udpOf matches the UDP flows of an address.
type udpOf netip.Addr

// MatchConntrackFlow is what the library asks of each flow.
func (u udpOf) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	ip := netip.Addr(u).AsSlice()
	return f.Forward.Protocol == unix.IPPROTO_UDP && (f.Forward.SrcIP.Equal(ip) || f.Reverse.SrcIP.Equal(ip))
}
