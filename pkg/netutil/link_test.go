package netutil

import (
	"net"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestReadLink reads links of all kinds as the library does, and their IPv6 settings as /proc shows them.
func TestReadLink(t *testing.T) {
	inNS(t, func(t *testing.T, h *Handle, peer *NS) {
		ok(t, h.AddBridge("br0", net.HardwareAddr{2, 0, 0, 0, 0, 1}, 1400))
		ok(t, h.AddVeth(Veth{Name: "host0", MTU: 1300, Peer: "eth0", PeerNS: peer}))
		ok(t, h.AddVeth(Veth{Name: "small", MTU: 1000, Peer: "eth1", PeerNS: peer})) // too small for IPv6
		br, err := h.Link("br0")
		ok(t, err)
		host, err := h.Link("host0")
		ok(t, err)
		ok(t, h.SetLink(br.Index, Change{Up: true, Alias: "mine"}))
		ok(t, h.SetLink(host.Index, Change{Master: br.Index, Up: true}))
		ok(t, h.SetSysctls(Sysctl{Key: "ipv6/conf/br0/accept_ra", Value: "0"}, Sysctl{Key: "ipv6/conf/br0/accept_dad", Value: "-1"}))
		links, err := h.Links()
		ok(t, err)
		if len(links) != 4 {
			t.Fatalf("%d links: %+v", len(links), links)
		}
		for _, l := range links {
			again, err := h.Link(l.Name)
			ok(t, err)
			lib, err := ask(h, func(lib *netlink.Handle) (netlink.Link, error) { return lib.LinkByIndex(l.Index) })
			ok(t, err)
			a := lib.Attrs()
			for _, l := range []Link{l, again} {
				if l.Name == "lo" {
					l.MAC = nil // the library takes zeroes for none
				}
				if l.Name != a.Name || l.Kind != lib.Type() || l.MAC.String() != a.HardwareAddr.String() || l.MTU != a.MTU ||
					l.Up != (a.RawFlags&unix.IFF_UP != 0) || l.Master != a.MasterIndex || l.Alias != a.Alias || l.Peer != a.ParentIndex {
					t.Errorf("%+v, want %+v", l, a)
				}
			}
			for key, setting := range map[string]DevConf6{"accept_ra": AcceptRA, "accept_dad": AcceptDAD} {
				want, err := h.Sysctl("ipv6/conf/" + l.Name + "/" + key)
				value, has := l.IPv6(setting)
				if has != (err == nil) || has && strconv.Itoa(value) != want {
					t.Errorf("%s of %s: %d, %t; want %s, %v", key, l.Name, value, has, want, err)
				}
			}
		}
	})
}

// FuzzReadLink: whatever a message holds, it is read or refused.
func FuzzReadLink(f *testing.F) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize()
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_CONF, make([]byte, 120))
	name := nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0"))
	f.Add(msg)
	f.Add(append(append(append(msg, name.Serialize()...), info.Serialize()...), spec.Serialize()...))
	f.Add(append(msg, 3, 0, 0, 0))
	f.Add(append(msg, 200, 0, 3, 0))
	f.Fuzz(func(t *testing.T, msg []byte) {
		l, err := readLink(msg)
		if value, has := l.IPv6(AcceptDAD); err == nil && has && len(msg) < 4*int(AcceptDAD) {
			t.Errorf("%d from %d bytes", value, len(msg))
		}
	})
}
