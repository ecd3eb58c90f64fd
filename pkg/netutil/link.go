package netutil

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// MaxName is the longest name of a link, in bytes.
const MaxName = unix.IFNAMSIZ - 1

// vethInfoPeer is VETH_INFO_PEER, iflaBrportMode is IFLA_BRPORT_MODE: hairpin. rtextFilterSkipStats is
// RTEXT_FILTER_SKIP_STATS: counters are most of what the kernel says of a link.
const (
	vethInfoPeer         = 1
	iflaBrportMode       = 4
	rtextFilterSkipStats = 1 << 3
)

// Link is a network interface as the kernel shows it.
type Link struct {
	Name   string
	Index  int
	Kind   string // "veth", "bridge", …; "device" or empty for hardware and lo
	MAC    net.HardwareAddr
	MTU    int
	Up     bool
	Master int // index of the bridge it is a port of, or 0
	Alias  string
	Peer   int // index of a veth's other end, in the namespace where that is

	conf6 []byte // see IPv6
}

// readLink reads what the kernel says of a link: struct ifinfomsg of rtnetlink(7) and its attributes. The library's
// reader takes longer than the kernel to write it.
func readLink(msg []byte) (Link, error) {
	if len(msg) < unix.SizeofIfInfomsg {
		return Link{}, fmt.Errorf("%d bytes of a link: %w", len(msg), errdefs.ErrDataLoss)
	}
	l := Link{
		Kind: "device", Index: int(int32(binary.NativeEndian.Uint32(msg[4:]))),
		Up: binary.NativeEndian.Uint32(msg[8:])&unix.IFF_UP != 0,
	}
	var inside error
	err := eachAttribute(msg[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = text(value)
		case unix.IFLA_ADDRESS:
			l.MAC = append(net.HardwareAddr(nil), value...)
		case unix.IFLA_MTU:
			l.MTU = number(value)
		case unix.IFLA_MASTER:
			l.Master = number(value)
		case unix.IFLA_LINK:
			l.Peer = number(value)
		case unix.IFLA_IFALIAS:
			l.Alias = text(value)
		case unix.IFLA_LINKINFO:
			inside = errors.Join(inside, l.readKind(value))
		case unix.IFLA_AF_SPEC:
			inside = errors.Join(inside, l.readFamilies(value))
		}
	})
	return l, errors.Join(err, inside)
}

func (l *Link) readKind(info []byte) error {
	return eachAttribute(info, func(kind uint16, value []byte) {
		if kind == nl.IFLA_INFO_KIND {
			l.Kind = text(value)
		}
	})
}

func (l *Link) readFamilies(spec []byte) error {
	var inside error
	inet6 := func(kind uint16, value []byte) {
		if kind == unix.IFLA_INET6_CONF {
			l.conf6 = append([]byte(nil), value...)
		}
	}
	err := eachAttribute(spec, func(family uint16, value []byte) {
		if family == unix.AF_INET6 {
			inside = eachAttribute(value, inet6)
		}
	})
	return errors.Join(err, inside)
}

// text is a string without the zero byte at its end.
func text(value []byte) string { return strings.TrimRight(string(value), "\x00") }

// IPv6 is a setting of a link below /proc/sys/net/ipv6/conf as the kernel told it along with the link. Not ok: the
// link has no IPv6, or the kernel no such setting.
func (l Link) IPv6(setting DevConf6) (value int, ok bool) {
	at := 4 * int(setting)
	if len(l.conf6) < at+4 {
		return 0, false
	}
	return int(int32(binary.NativeEndian.Uint32(l.conf6[at:]))), true
}

// DevConf6 is the number of a setting in linux/ipv6.h.
type DevConf6 int

// Settings that are asked for.
const (
	AcceptRA  DevConf6 = 3  // DEVCONF_ACCEPT_RA
	AcceptDAD DevConf6 = 27 // DEVCONF_ACCEPT_DAD
)

// Link finds a link by name. Asking makes Linux 6.8 and later act on pending carrier changes before
// they answer, so that a link that was just brought up carries packets from here on.
func (h *Handle) Link(name string) (Link, error) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	return h.getLink(name, msg, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

// LinkByIndex finds a link by index; see Link.
func (h *Handle) LinkByIndex(index int) (Link, error) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	return h.getLink(fmt.Sprintf("number %d", index), msg)
}

func (h *Handle) getLink(what string, data ...nl.NetlinkRequestData) (Link, error) {
	withoutStats := nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(rtextFilterSkipStats))
	answers, err := h.request(unix.RTM_GETLINK, 0, append(data, withoutStats)...)
	if err != nil {
		return Link{}, fmt.Errorf("find link %s: %w", what, err)
	}
	if len(answers) != 1 {
		return Link{}, fmt.Errorf("find link %s: %d answers", what, len(answers))
	}
	l, err := readLink(answers[0])
	if err != nil {
		return Link{}, fmt.Errorf("find link %s: %w", what, err)
	}
	return l, nil
}

// Links lists all links.
func (h *Handle) Links() ([]Link, error) {
	withoutStats := nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(rtextFilterSkipStats))
	answers, err := whole(func() ([][]byte, error) {
		return h.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, nl.NewIfInfomsg(unix.AF_UNSPEC), withoutStats)
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	links := make([]Link, 0, len(answers))
	for _, a := range answers {
		l, err := readLink(a)
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		links = append(links, l)
	}
	return links, nil
}

// Veth describes a pair of links.
type Veth struct {
	Name string // here
	MAC  net.HardwareAddr
	MTU  int // of both ends; 0 is the kernel's default

	Peer    string // in PeerNS
	PeerMAC net.HardwareAddr
	PeerNS  *NS // nil: here
}

// AddVeth makes a pair, both ends down, the peer in its namespace from the start. It is one message: a
// failure or a crash leaves both ends or none. A name that is taken at either end is ErrAlreadyExists.
func (h *Handle) AddVeth(v Veth) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(vethInfoPeer, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	for _, a := range nameMACMTU(v.Peer, v.PeerMAC, v.MTU) {
		peer.AddChild(a)
	}
	if v.PeerNS != nil {
		peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(v.PeerNS.f.Fd())))
	}

	data := []nl.NetlinkRequestData{nl.NewIfInfomsg(unix.AF_UNSPEC)}
	for _, a := range nameMACMTU(v.Name, v.MAC, v.MTU) {
		data = append(data, a)
	}
	_, err := h.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, append(data, info)...)
	if err != nil {
		return fmt.Errorf("add veth %s with peer %s: %w", v.Name, v.Peer, err)
	}
	return nil
}

func nameMACMTU(name string, mac net.HardwareAddr, mtu int) []*nl.RtAttr {
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name))}
	if mac != nil {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	}
	if mtu != 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	}
	return attrs
}

// AddBridge makes a bridge that is down. Giving it a MAC pins it: it does not follow its ports. It does not look into
// multicast (IGMP and MLD snooping): see bridge-ipam's DECISIONS.md.
func (h *Handle) AddBridge(name string, mac net.HardwareAddr, mtu int) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_MCAST_SNOOPING, []byte{0})
	data := []nl.NetlinkRequestData{nl.NewIfInfomsg(unix.AF_UNSPEC), info}
	for _, a := range nameMACMTU(name, mac, mtu) {
		data = append(data, a)
	}
	_, err := h.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, data...)
	if err != nil {
		return fmt.Errorf("add bridge %s: %w", name, err)
	}
	return nil
}

// Change is what SetLink alters in one message; nil and zero fields stay as they are.
type Change struct {
	Up, Down bool
	Alias    string
	MAC      net.HardwareAddr // also pins a bridge's MAC, when it is the one that it has
	Master   int              // index of a bridge; see NoMaster
	AddrGen  AddrGen
}

// AddrGen is how a link comes to its link-local IPv6 address when it is brought up. The setting of that name below
// /proc/sys does the same, but reading and writing it spins as long as another process changes links: the kernel
// only tries its lock, and has the caller start again (addrconf_sysctl_addr_gen_mode).
type AddrGen uint8

// The values of in6_addr_gen_mode that are in use here.
const (
	AddrGenKeep  AddrGen = iota // what it is
	AddrGenEUI64                // from the MAC
	AddrGenNone                 // no address
)

// attribute is nil for AddrGenKeep.
func (g AddrGen) attribute() *nl.RtAttr {
	if g == AddrGenKeep {
		return nil
	}
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{byte(g - AddrGenEUI64)})
	return spec
}

// NoMaster as Change.Master takes a link out of its bridge.
const NoMaster = -1

// SetLink changes a link.
func (h *Handle) SetLink(index int, c Change) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	if c.Up || c.Down {
		msg.Change = unix.IFF_UP
	}
	if c.Up {
		msg.Flags = unix.IFF_UP
	}
	data := []nl.NetlinkRequestData{msg}
	if c.Alias != "" {
		data = append(data, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(c.Alias)))
	}
	if c.MAC != nil {
		data = append(data, nl.NewRtAttr(unix.IFLA_ADDRESS, c.MAC))
	}
	if c.Master != 0 {
		data = append(data, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(max(c.Master, 0)))))
	}
	if spec := c.AddrGen.attribute(); spec != nil {
		data = append(data, spec)
	}
	_, err := h.request(unix.RTM_SETLINK, unix.NLM_F_ACK, data...)
	if c.AddrGen != AddrGenKeep && errors.Is(err, unix.EAFNOSUPPORT) { // a kernel or a link without IPv6
		c.AddrGen = AddrGenKeep
		return h.SetLink(index, c)
	}
	if err != nil {
		return fmt.Errorf("change link number %d: %w", index, err)
	}
	return nil
}

// SetHairpin lets a bridge send packets back through the port they came from.
func (h *Handle) SetHairpin(index int) error {
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(iflaBrportMode, []byte{1})
	if _, err := h.request(unix.RTM_SETLINK, unix.NLM_F_ACK, msg, port); err != nil {
		return fmt.Errorf("set hairpin on link number %d: %w", index, err)
	}
	return nil
}

// Hairpin says whether a bridge port has hairpin mode on.
func (h *Handle) Hairpin(index int) (bool, error) {
	p, err := ask(h, func(lib *netlink.Handle) (netlink.Protinfo, error) { return lib.LinkGetProtinfo(byIndex(index)) })
	if err != nil {
		return false, fmt.Errorf("find bridge port number %d: %w", index, classify(err))
	}
	return p.Hairpin, nil
}

// DeleteLink deletes a link; gone is success. It waits for an RCU grace period, tens of milliseconds.
func (h *Handle) DeleteLink(name string) error {
	if _, err := h.Index(name); errdefs.IsNotFound(err) {
		return nil
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	_, err := h.request(unix.RTM_DELLINK, unix.NLM_F_ACK, msg, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if err = absentOK(err); err != nil {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// DeleteLinks deletes many links for the price of one grace period, by putting them into a group that
// no link is in, and deleting that. Gone is success.
func (h *Handle) DeleteLinks(names []string) error {
	if len(names) == 1 {
		return h.DeleteLink(names[0])
	}
	if len(names) == 0 {
		return nil
	}
	group, err := h.freeGroup()
	if err != nil {
		return err
	}
	for _, name := range names {
		attrs := []nl.NetlinkRequestData{
			nl.NewIfInfomsg(unix.AF_UNSPEC),
			nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)),
			nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)),
		}
		_, err := h.request(unix.RTM_SETLINK, unix.NLM_F_ACK, attrs...)
		if err = absentOK(err); err != nil {
			return fmt.Errorf("group link %s: %w", name, err)
		}
	}
	_, err = h.request(unix.RTM_DELLINK, unix.NLM_F_ACK, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	if err = absentOK(err); err != nil {
		return fmt.Errorf("delete %d links: %w", len(names), err)
	}
	return nil
}

// freeGroup draws a group number from the upper half, which nobody hands out, until no link is in it.
func (h *Handle) freeGroup() (uint32, error) {
	links, err := ask(h, (*netlink.Handle).LinkList)
	if err != nil {
		return 0, fmt.Errorf("list links: %w", classify(err))
	}
	taken := map[uint32]bool{}
	for _, l := range links {
		taken[l.Attrs().Group] = true
	}
	for {
		mac, err := RandomMAC()
		if err != nil {
			return 0, err
		}
		if group := binary.BigEndian.Uint32(mac[2:]) | 1<<31; !taken[group] {
			return group, nil
		}
	}
}
