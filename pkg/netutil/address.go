package netutil

import (
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// parseAddr reads an RTM_NEWADDR message: an address with its prefix, and the link that it is on.
func parseAddr(data []byte) (p netip.Prefix, index int, err error) {
	msg := nl.DeserializeIfAddrmsg(data)
	attrs, err := nl.ParseRouteAttr(data[msg.Len():])
	if err != nil {
		return p, 0, err
	}
	var addr netip.Addr
	for _, a := range attrs {
		// The address itself: on a link with a peer IFA_ADDRESS is the peer's, and IPv6 has only that.
		if t := a.Attr.Type; t == unix.IFA_LOCAL || t == unix.IFA_ADDRESS && !addr.IsValid() {
			addr, _ = netip.AddrFromSlice(a.Value)
		}
	}
	return netip.PrefixFrom(addr, int(msg.Prefixlen)), int(msg.Index), nil
}
