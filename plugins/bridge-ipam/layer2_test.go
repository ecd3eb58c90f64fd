package bridgeipam_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// ip runs ip(8) on the node.
func (n *node) ip(args ...string) {
	n.t.Helper()
	n.tool("ip", args...)
}

// TestPortIsolation: isolated pods reach the node and not each other.
func TestPortIsolation(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"portIsolation": true})
	pods := []string{nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)}
	a, b := n.add("a", pods[0], conf), n.add("b", pods[1], conf)
	free := n.add("free", pods[2], n.conf(nil))
	for i, r := range []result{a, b} {
		hello(t, pods[i], n.ns, gateway4)
		hello(t, pods[i], pods[2], free.addr(0))
		n.quiet(call{cmd: "CHECK", id: string("ab"[i]), ifName: "eth0", netns: pods[i], conf: withPrev(t, conf, r.raw)})
	}
	// Frames that an isolated port sends to all come to the free pod in their order, so that the one that
	// comes there shows that all before it are done.
	from, other, third := tap(t, pods[0], "eth0"), tap(t, pods[1], "eth0"), tap(t, pods[2], "eth0")
	us, them := identityOf(t, a), identityOf(t, b)
	mark := []byte("from isolated to isolated")
	from.send(ether(everyone, us.mac, 0x0800, ip4(us.v4, them.v4, unix.IPPROTO_UDP, udp(9, 9, mark))))
	third.sees(mark, mark)
	last := []byte("from free to isolated")
	third.send(ether(everyone, identityOf(t, free).mac, 0x0800, ip4(free.addr(0), them.v4, unix.IPPROTO_UDP, udp(9, 9, last))))
	if other.sees(mark, last) {
		t.Error("isolated pods reach each other")
	}
	n.ip("link", "set", "dev", a.Interfaces[1].Name, "type", "bridge_slave", "isolated", "off")
	n.refused(call{cmd: "CHECK", id: "a", ifName: "eth0", netns: pods[0], conf: withPrev(t, conf, a.raw)}, 999, "isolated is false, want true")
}

// TestPromiscMode: the bridge takes all frames, and CHECK sees when it does not.
func TestPromiscMode(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"promiscMode": true})
	pod := nettest.NewNS(t)
	check := call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, n.add("c", pod, conf).raw)}
	n.quiet(check)
	n.ip("link", "set", "dev", "br0", "promisc", "off")
	n.refused(check, 999, "not promiscuous")
	n.add("d", nettest.NewNS(t), conf)
	n.quiet(check)
}

// TestEnableDAD: ADD returns when the kernel has found nobody else with the address, and fails when it has.
func TestEnableDAD(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"enabledad": true, "macspoofchk": true})
	pod := nettest.NewNS(t)
	r := n.add("c", pod, conf)
	at(t, pod, func(h *netutil.Handle) {
		for key, want := range map[string]string{"accept_dad": "1", "enhanced_dad": "1"} {
			if got, err := h.Sysctl("ipv6/conf/eth0/" + key); got != want || err != nil {
				t.Errorf("%s: %q, %v", key, got, err)
			}
		}
		l, err := h.Link("eth0")
		ok(t, err)
		ok(t, h.AwaitAddrs(l.Index, 0)) // none is tentative
	})
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)})
	// Another pod takes the address that the next one would get.
	thief := nettest.NewNS(t)
	n.add("thief", thief, n.conf(nil))
	at(t, thief, func(h *netutil.Handle) {
		l, err := h.Link("eth0")
		ok(t, err)
		ok(t, h.AddAddr(l.Index, netip.MustParsePrefix("fd77::4/64")))
	})
	n.refused(call{cmd: "ADD", id: "d", ifName: "eth0", netns: nettest.NewNS(t), conf: conf}, 999, "fd77::4", "somebody else")
	n.del("c", conf)
	n.del("thief", conf)
	n.clean("br0")
}

// TestDisableContainerInterface: the link is there, down and without addresses.
func TestDisableContainerInterface(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"disableContainerInterface": true, "ipam": map[string]any{"dataDir": n.data}})
	pod := nettest.NewNS(t)
	r := n.add("c", pod, conf)
	at(t, pod, func(h *netutil.Handle) {
		l, err := h.Link("eth0")
		ok(t, err)
		if l.Up || len(r.IPs) != 0 {
			t.Errorf("%+v, %s", l, r.raw)
		}
	})
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)})
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: conf}, 999, "exists")
	n.del("c", conf)
	n.clean("br0")
}

// TestFullBridge: a bridge takes 1,023 ports, and whoever comes after them is told of it.
func TestFullBridge(t *testing.T) {
	n := newNode(t)
	conf := n.conf(nil)
	n.add("c", nettest.NewNS(t), conf)
	var batch strings.Builder
	for i := range 1022 {
		fmt.Fprintf(&batch, "link add p%d master br0 type ifb\n", i)
	}
	file := filepath.Join(t.TempDir(), "batch")
	ok(t, os.WriteFile(file, []byte(batch.String()), 0o600))
	n.tool("ip", "-batch", file)
	_, _, before := n.left()
	n.refused(call{cmd: "ADD", id: "d", ifName: "eth0", netns: nettest.NewNS(t), conf: conf}, 999, `bridge "br0"`, "routed")
	if links, _, after := n.left(); len(links) != 1024 || len(after) != len(before) {
		t.Errorf("%d links, leases %v", len(links), after)
	}
}

// TestForeignBridgeKeepsItsMAC: a bridge that was made without a MAC of its own takes the lowest of its ports'. From the
// first pod on it does not: pods would lose their gateway.
func TestForeignBridgeKeepsItsMAC(t *testing.T) {
	n := newNode(t)
	at(t, n.ns, func(h *netutil.Handle) { ok(t, h.AddBridge("br0", nil, 0)) })
	r := n.add("c", nettest.NewNS(t), n.conf(nil))
	n.ip("link", "add", "port", "address", "02:00:00:00:00:01", "master", "br0", "type", "ifb")
	at(t, n.ns, func(h *netutil.Handle) {
		if br, err := h.Link("br0"); err != nil || br.MAC.String() != r.Interfaces[0].Mac {
			t.Errorf("bridge has %s, had %s, %v", br.MAC, r.Interfaces[0].Mac, err)
		}
	})
}
