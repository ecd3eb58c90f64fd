package netutil

import (
	"fmt"
	"testing"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// BenchmarkJoinBridge is the kernel's part of an ADD that grows with the ports of a bridge: one message that makes a veth
// a port and brings it up, and one that has the kernel act on its carrier. Each walks the list of ports several times.
func BenchmarkJoinBridge(b *testing.B) {
	for _, ports := range []int{10, 1000} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			must := func(err error) {
				b.Helper()
				if err != nil {
					b.Fatal(err)
				}
			}
			here, err := OpenNS(nettest.NewNS(b))
			must(err)
			defer func() { _ = here.Close() }()
			peers, err := OpenNS(nettest.NewNS(b))
			must(err)
			defer func() { _ = peers.Close() }()
			h, err := here.Handle()
			must(err)
			defer h.Close()
			pod, err := peers.Handle()
			must(err)
			defer pod.Close()
			mac, err := RandomMAC()
			must(err)
			must(h.AddBridge("br0", mac, 0))
			br, err := h.Link("br0")
			must(err)
			must(h.SetLink(br.Index, Change{Up: true}))
			join := func(i int) (end func() error) {
				name := fmt.Sprintf("port%d", i)
				must(h.AddVeth(Veth{Name: name, Peer: name, PeerNS: peers}))
				peer, err := pod.Index(name)
				must(err)
				must(pod.SetLink(peer, Change{Up: true}))
				index, err := h.Index(name)
				must(err)
				return func() error {
					if err := h.SetLink(index, Change{Master: br.Index, Up: true}); err != nil {
						return err
					}
					_, err := h.Link(name)
					return err
				}
			}
			for i := range ports {
				must(join(i)())
			}
			b.ResetTimer()
			for i := range b.N {
				b.StopTimer()
				end := join(ports + i)
				b.StartTimer()
				must(end())
				b.StopTimer()
				must(h.DeleteLink(fmt.Sprintf("port%d", ports+i)))
				b.StartTimer()
			}
		})
	}
}
