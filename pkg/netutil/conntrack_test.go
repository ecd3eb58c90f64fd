package netutil

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestFlushFlows: of two flows to each of two ports only those asked for are forgotten, in both families.
func TestFlushFlows(t *testing.T) {
	here, there := nettest.NewNS(t), nettest.NewNS(t)
	peer, err := OpenNS(there)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	addrs := map[string][]string{ // family → two of ours, one of theirs
		"4": {"10.9.0.1/24", "10.9.0.2/24", "10.9.0.9/24"}, "6": {"fd09::1/64", "fd09::2/64", "fd09::9/64"},
	}
	setup := func(h *Handle, name string, list ...string) error {
		l, err := h.Link(name)
		if err == nil {
			err = h.SetSysctls(Sysctl{Key: "ipv6/conf/" + name + "/accept_dad", Value: "0"})
		}
		if err == nil {
			err = h.SetLink(l.Index, Change{Up: true})
		}
		for _, a := range list {
			if err == nil {
				err = h.AddAddr(l.Index, netip.MustParsePrefix(a))
			}
		}
		return err
	}
	nettest.In(t, here, func() error {
		h, err := Host()
		if err != nil {
			return err
		}
		defer h.Close()
		ph, err := peer.Handle()
		if err != nil {
			return err
		}
		defer ph.Close()
		if err := h.AddVeth(Veth{Name: "a", Peer: "b", PeerNS: peer}); err != nil {
			return err
		}
		nft, err := OpenNft("t") // flows are tracked where something asks for them
		if err != nil {
			return err
		}
		defer func() { _ = nft.Close() }()
		nft.AddTable()
		nft.AddHooked("c", TranslateOutput(0))
		nft.AddRule("c", "", IsDestTranslated())
		a4, a6 := addrs["4"], addrs["6"]
		return errors.Join(nft.Commit(), setup(h, "a", a4[0], a4[1], a6[0], a6[1]), setup(ph, "b", a4[2], a6[2]))
	})
	for family, list := range addrs {
		first, second, theirs := addrOf(list[0]), addrOf(list[1]), addrOf(list[2])
		send := func(from, to netip.Addr) error {
			for _, port := range []uint16{53, 54} {
				d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
				c, err := d.Dial("udp", netip.AddrPortFrom(to, port).String())
				if err == nil {
					_, err = c.Write([]byte("x"))
					_ = c.Close()
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
		for name, c := range map[string]struct {
			flush func() error
			want  string
		}{
			"nobody":         {func() error { return FlushUDP(theirs.Next()) }, "4 2 2"},
			"who asks":       {func() error { return FlushUDP(first) }, "2 0 2"},
			"who answers":    {func() error { return FlushAnswersOf(theirs) }, "0 0 0"},
			"one port":       {func() error { return FlushUDPTo(53, theirs) }, "2 1 1"},
			"nobody's port":  {func() error { return FlushUDPTo(53, first) }, "4 2 2"},
			"nobody answers": {func() error { return FlushAnswersOf(first) }, "4 2 2"},
		} {
			t.Run(family+" "+name, func(t *testing.T) {
				var table []byte
				nettest.In(t, here, func() (err error) {
					err = errors.Join(send(first, theirs), send(second, theirs), c.flush())
					if err == nil {
						table, err = os.ReadFile("/proc/thread-self/net/nf_conntrack")
					}
					return errors.Join(err, FlushAnswersOf(theirs))
				})
				count := func(a netip.Addr) int {
					return strings.Count(string(table), "src="+a.StringExpanded()+" dst="+theirs.StringExpanded()+" ")
				}
				if got := fmt.Sprintf("%d %d %d", count(first)+count(second), count(first), count(second)); got != c.want {
					t.Errorf("%s flows left, want %s:\n%s", got, c.want, table)
				}
			})
		}
	}
}

func addrOf(prefix string) netip.Addr { return netip.MustParsePrefix(prefix).Addr() }
