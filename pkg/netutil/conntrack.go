package netutil

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
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
	sock, err := openSocket(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("flush flows of %s: %w", list, classify(err))
	}
	defer sock.close()
	var faults []error
	rest := map[uint8][]flows{}
	for _, f := range list {
		done, err := f.flush(sock)
		if err != nil {
			faults = append(faults, fmt.Errorf("flush flows of %s: %w", f, classify(err)))
		}
		if !done {
			rest[f.family()] = append(rest[f.family()], f)
		}
	}
	for family, list := range rest {
		if err := search(sock, family, list); err != nil {
			faults = append(faults, fmt.Errorf("flush flows of %s: %w", list, classify(err)))
		}
	}
	return errors.Join(faults...)
}

// flush has the kernel do the search, where it can: since Linux 6.9, and not for IPv6, where it takes all
// addresses but the one asked for (ctnetlink_filter_match_tuple, as late as 6.18). Else a dump is searched.
func (f flows) flush(sock *socket) (done bool, err error) {
	if f.addr.Is6() {
		return false, nil
	}
	_, err = sock.conntrack(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, f.family(), f.filter(true)...)
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

// conntrack sends one message about the flows of a family.
func (s *socket) conntrack(kind, flags int, family uint8, data ...nl.NetlinkRequestData) ([][]byte, error) {
	of := &nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0}
	return s.request(unix.NFNL_SUBSYS_CTNETLINK<<8|kind, flags, append([]nl.NetlinkRequestData{of}, data...)...)
}

// filter is one tuple to compare with and the fields of it that count: all, or the protocol only.
func (f flows) filter(all bool) []nl.NetlinkRequestData {
	tuple, flags := nl.CTA_TUPLE_ORIG, uint32(0)
	if f.answers {
		tuple = nl.CTA_TUPLE_REPLY
	}
	match := nl.NewRtAttr(tuple|unix.NLA_F_NESTED, nil)
	if all {
		flags |= ctaFilterIPSrc
		if f.port != 0 {
			flags = ctaFilterIPDst
		}
		match.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil).AddRtAttr(int(f.addrKind()), f.addr.AsSlice())
	}
	if f.protocol != 0 {
		flags |= ctaFilterProtoNum
		proto := match.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
		proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{f.protocol})
		if all && f.port != 0 {
			flags |= ctaFilterDstPort
			proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, f.port))
		}
	}
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	for attr, of := range map[int]int{ctaFilterOrigFlags: nl.CTA_TUPLE_ORIG, ctaFilterReplyFlags: nl.CTA_TUPLE_REPLY} {
		value := uint32(0)
		if of == tuple {
			value = flags
		}
		filter.AddRtAttr(attr, nl.Uint32Attr(value))
	}
	return []nl.NetlinkRequestData{match, filter}
}

// addrKind is the attribute of the address.
func (f flows) addrKind() uint16 {
	kind := uint16(nl.CTA_IP_V4_SRC)
	if f.addr.Is6() {
		kind = nl.CTA_IP_V6_SRC
	}
	if f.port != 0 {
		kind += nl.CTA_IP_V4_DST - nl.CTA_IP_V4_SRC
	}
	return kind
}

// search deletes the flows that it finds in one dump, in which the kernel leaves out other protocols if all
// of the list are of one.
func search(sock *socket, family uint8, list []flows) error {
	var alike []nl.NetlinkRequestData
	first := list[0]
	if !slices.ContainsFunc(list, func(f flows) bool { return f.protocol == 0 || f.protocol != first.protocol }) {
		alike = first.filter(false)
	}
	found, err := sock.conntrack(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, family, alike...)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // flows come and go all the time
		return err
	}
	var faults []error
	for _, msg := range found {
		if !slices.ContainsFunc(list, func(f flows) bool { return f.matches(msg) }) {
			continue
		}
		_, err := sock.conntrack(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, family, attrBytes(msg[nl.SizeofNfgenmsg:]))
		faults = append(faults, absentOK(classify(err)))
	}
	return errors.Join(faults...)
}

// attrBytes are attributes as the kernel gave them.
type attrBytes []byte

func (b attrBytes) Len() int          { return len(b) }
func (b attrBytes) Serialize() []byte { return b }

// matches looks at one flow of a dump. Nearly all are settled by the first condition.
func (f flows) matches(msg []byte) bool {
	addr := f.addr.AsSlice()
	if len(msg) < nl.SizeofNfgenmsg || !bytes.Contains(msg, addr) {
		return false
	}
	tuple := uint16(nl.CTA_TUPLE_ORIG)
	if f.answers {
		tuple = nl.CTA_TUPLE_REPLY
	}
	flow, _ := attributes(msg[nl.SizeofNfgenmsg:])
	ends, _ := attributes(flow[tuple])
	ip, _ := attributes(ends[nl.CTA_TUPLE_IP])
	proto, _ := attributes(ends[nl.CTA_TUPLE_PROTO])
	return bytes.Equal(ip[f.addrKind()], addr) &&
		(f.protocol == 0 || bytes.Equal(proto[nl.CTA_PROTO_NUM], []byte{f.protocol})) &&
		(f.port == 0 || bytes.Equal(proto[nl.CTA_PROTO_DST_PORT], binary.BigEndian.AppendUint16(nil, f.port)))
}
