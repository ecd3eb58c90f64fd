package netutil

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// RandomMAC is a random unicast address from the locally administered space.
func RandomMAC() (net.HardwareAddr, error) {
	mac := make(net.HardwareAddr, 6)
	if _, err := unix.Getrandom(mac, 0); err != nil {
		return nil, fmt.Errorf("draw MAC: %w", err)
	}
	mac[0] = mac[0]&0xfe | 0x02
	return mac, nil
}

// ipNet turns a prefix with its host part into the library's form.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

// AddAddr gives a link an address, without duplicate address detection. Being there already is success.
func (h *Handle) AddAddr(index int, p netip.Prefix) error {
	return h.addAddr(index, p, unix.IFA_F_NODAD)
}

func (h *Handle) addAddr(index int, p netip.Prefix, flags6 int) error {
	msg := nl.NewIfAddrmsg(familyOf(p.Addr()))
	if p.Addr().Is6() {
		msg.Flags = uint8(flags6)
	}
	return h.newAddr(index, p, msg)
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// newAddr adds an address. An IPv4 subnet with room for it has a broadcast address (RFC 3021).
func (h *Handle) newAddr(index int, p netip.Prefix, msg *nl.IfAddrmsg) error {
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	addr := p.Addr().AsSlice()
	data := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFA_LOCAL, addr), nl.NewRtAttr(unix.IFA_ADDRESS, addr)}
	if p.Addr().Is4() && p.Bits() < 31 {
		data = append(data, nl.NewRtAttr(unix.IFA_BROADCAST, LastAddr(p).AsSlice()))
	}
	_, err := h.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, data...)
	if err = presentOK(err); err != nil {
		return fmt.Errorf("add address %s to link number %d: %w", p, index, err)
	}
	return nil
}

// AddOwnAddr gives a link an IPv4 address that the host answers for and never sends from. Being there already
// is success.
func (h *Handle) AddOwnAddr(index int, addr netip.Addr) error {
	msg := nl.NewIfAddrmsg(familyOf(addr))
	msg.Scope = unix.RT_SCOPE_HOST
	return h.newAddr(index, netip.PrefixFrom(addr, addr.BitLen()), msg)
}

// DeleteAddr takes an address from a link; gone is success.
func (h *Handle) DeleteAddr(index int, p netip.Prefix) error {
	err := absentOK(classify(tell(h, func(lib *netlink.Handle) error { return lib.AddrDel(byIndex(index), &netlink.Addr{IPNet: ipNet(p)}) })))
	if err != nil {
		return fmt.Errorf("delete address %s from link number %d: %w", p, index, err)
	}
	return nil
}

// Addrs lists the addresses of a link, link-local ones included.
func (h *Handle) Addrs(index int) ([]netip.Prefix, error) {
	msg := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	msg.Index = uint32(index)
	answers, err := whole(func() ([][]byte, error) { return h.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, msg) })
	if err = absentOK(err); err != nil {
		return nil, fmt.Errorf("list addresses of link number %d: %w", index, err)
	}
	var out []netip.Prefix
	for _, a := range answers {
		p, on, err := parseAddr(a)
		if err != nil {
			return nil, fmt.Errorf("list addresses of link number %d: %w", index, err)
		}
		if on == index { // where the kernel does not choose (see open) it shows those of all links
			out = append(out, p)
		}
	}
	return out, nil
}

// NodeAddrs lists the addresses of all links, of one family.
func (h *Handle) NodeAddrs(v6 bool) ([]netip.Addr, error) {
	family := netlink.FAMILY_V4
	if v6 {
		family = netlink.FAMILY_V6
	}
	list, err := ask(h, func(lib *netlink.Handle) ([]netlink.Addr, error) { return lib.AddrList(nil, family) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", classify(err))
	}
	var out []netip.Addr
	for _, a := range list {
		if p, ok := prefixOf(a.IPNet); ok {
			out = append(out, p.Addr())
		}
	}
	return out, nil
}

func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

// Route is a route through one link. Zero fields are the kernel's defaults.
type Route struct {
	Dst      netip.Prefix
	Via      netip.Addr // invalid: Dst is on the link
	MTU      int
	AdvMSS   int
	Priority int
	Table    int
	Scope    int
	Link     int // HasRoute: index of the link; 0 is any
}

func (r Route) lib(index int) *netlink.Route {
	out := &netlink.Route{
		LinkIndex: index, Dst: ipNet(r.Dst.Masked()), MTU: r.MTU, AdvMSS: r.AdvMSS,
		Priority: r.Priority, Table: r.Table, Scope: netlink.Scope(r.Scope),
	}
	if r.Via.IsValid() {
		out.Gw = r.Via.AsSlice()
	}
	return out
}

// AddRoute adds a route beside others to the same destination. Being there already is success.
func (h *Handle) AddRoute(index int, r Route) error {
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len = uint8(familyOf(r.Dst.Addr())), uint8(r.Dst.Bits())
	msg.Scope = uint8(r.Scope)
	data := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.RTA_DST, r.Dst.Masked().Addr().AsSlice())}
	number := func(attr, n int) {
		if n != 0 {
			data = append(data, nl.NewRtAttr(attr, nl.Uint32Attr(uint32(n))))
		}
	}
	if r.Via.IsValid() {
		data = append(data, nl.NewRtAttr(unix.RTA_GATEWAY, r.Via.AsSlice()))
	}
	number(unix.RTA_TABLE, r.Table)
	number(unix.RTA_PRIORITY, r.Priority)
	number(unix.RTA_OIF, index)
	if r.MTU != 0 || r.AdvMSS != 0 {
		data = append(data, r.metrics())
	}
	_, err := h.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_ACK, data...)
	if err = presentOK(err); err != nil {
		return fmt.Errorf("add route to %s: %w", r.Dst, err)
	}
	return nil
}

func (r Route) metrics() *nl.RtAttr {
	out := nl.NewRtAttr(unix.RTA_METRICS, nil)
	if r.MTU != 0 {
		out.AddRtAttr(unix.RTAX_MTU, nl.Uint32Attr(uint32(r.MTU)))
	}
	if r.AdvMSS != 0 {
		out.AddRtAttr(unix.RTAX_ADVMSS, nl.Uint32Attr(uint32(r.AdvMSS)))
	}
	return out
}

// loopback6 is the route to ::1 for packets that come by a link. Of two routes to ::1, packets of the node
// itself take the kernel's own, which is better.
func loopback6(index int) *netlink.Route {
	return &netlink.Route{
		LinkIndex: index, Dst: ipNet(netip.PrefixFrom(netip.IPv6Loopback(), 128)),
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Priority: 1024,
	}
}

// AddLoopback6 lets packets that come by a link be for ::1. From outside the kernel still takes none: only
// what translation made so gets that far. Being there already is success.
func (h *Handle) AddLoopback6(index int) error {
	if err := presentOK(classify(tell(h, func(lib *netlink.Handle) error { return lib.RouteAdd(loopback6(index)) }))); err != nil {
		return fmt.Errorf("add route to ::1 for link number %d: %w", index, err)
	}
	return nil
}

// DeleteLoopback6 undoes AddLoopback6; gone is success.
func (h *Handle) DeleteLoopback6(index int) error {
	if err := absentOK(classify(tell(h, func(lib *netlink.Handle) error { return lib.RouteDel(loopback6(index)) }))); err != nil {
		return fmt.Errorf("delete route to ::1 for link number %d: %w", index, err)
	}
	return nil
}

// HasRoute says whether there is a route with this destination, gateway and table. The
// fields of r that are not zero must fit too; those that are, may be anything.
func (h *Handle) HasRoute(r Route) (bool, error) {
	family := netlink.FAMILY_V4
	if r.Dst.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	want := r.lib(0)
	if want.Table == 0 {
		want.Table = unix.RT_TABLE_MAIN
	}
	list, err := ask(h, func(lib *netlink.Handle) ([]netlink.Route, error) {
		return lib.RouteListFiltered(family, want, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return false, fmt.Errorf("list routes: %w", classify(err))
	}
	for _, have := range list {
		dst, ok := prefixOf(have.Dst)
		if !ok { // how older versions of the library show a default route
			dst = netip.PrefixFrom(unspecified(family), 0)
		}
		if dst == r.Dst.Masked() && hasGateway(have, want.Gw) && r.metricsFit(have) {
			return true, nil
		}
	}
	return false, nil
}

func (r Route) metricsFit(have netlink.Route) bool {
	fits := func(want, have int) bool { return want == 0 || want == have }
	return fits(r.MTU, have.MTU) && fits(r.AdvMSS, have.AdvMSS) && fits(r.Priority, have.Priority) &&
		fits(r.Link, have.LinkIndex) &&
		(fits(r.Scope, int(have.Scope)) || r.Dst.Addr().Is6()) // IPv6 routes have no scope
}

func hasGateway(r netlink.Route, gw net.IP) bool {
	for _, hop := range r.MultiPath {
		if hop.Gw.Equal(gw) {
			return true
		}
	}
	return r.Gw.Equal(gw)
}

func unspecified(family int) netip.Addr {
	if family == netlink.FAMILY_V6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// uplinkProbes are documentation addresses (RFC 5737, RFC 3849): a look-up for one of them ends at the
// default route, however many routes there are.
var uplinkProbes = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

// UplinkMTU is the MTU of the link of the default route, IPv4 first; 0 when there is no default route.
func (h *Handle) UplinkMTU() (int, error) {
	for _, probe := range uplinkProbes {
		link, err := h.linkTowards(probe)
		if noRoute(err) || err == nil && link == 0 {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("find default route: %w", err)
		}
		name, mtu, err := h.nameAndMTU(link)
		if err != nil {
			return 0, err
		}
		if name != "lo" {
			return mtu, nil
		}
	}
	return 0, nil
}

// linkTowards is the index of the link by which packets for an address leave; 0 when they do not.
func (h *Handle) linkTowards(addr netip.Addr) (int, error) {
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyOf(addr)), Dst_len: uint8(addr.BitLen())}}
	answers, err := h.request(unix.RTM_GETROUTE, 0, msg, nl.NewRtAttr(unix.RTA_DST, addr.AsSlice()))
	if err != nil || len(answers) == 0 {
		return 0, err
	}
	attrs, err := attributes(answers[0][min(len(answers[0]), unix.SizeofRtMsg):])
	if out := attrs[unix.RTA_OIF]; err == nil && len(out) == 4 {
		return int(binary.NativeEndian.Uint32(out)), nil
	}
	return 0, err
}

func noRoute(err error) bool {
	for _, errno := range []syscall.Errno{
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EAFNOSUPPORT, unix.EOPNOTSUPP,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
