package bridgeipam_test

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// hasVLANs says whether this kernel can filter VLANs on bridges.
func hasVLANs(t testing.TB) (has bool) {
	t.Helper()
	at(t, nettest.NewNS(t), func(h *netutil.Handle) {
		ok(t, h.AddBridge("br0", nil, 0))
		br, err := h.Link("br0")
		ok(t, err)
		err = h.FilterVLANs(br.Index)
		if e := h.CanFilterVLANs(br.Index); (e == nil) != (err == nil) {
			t.Errorf("can filter: %v, filters: %v", e, err)
		}
		if err != nil && !errors.Is(err, netutil.ErrNoVLANs) {
			t.Error(err)
		}
		has = err == nil
	})
	return has
}

// vlan is a network of its own with a VLAN on the bridge that all share.
func (n *node) vlan(id int, more map[string]any) string {
	keys := map[string]any{
		"name": fmt.Sprintf("vlan%d", id), "vlan": id, "ipMasq": false, "ipam": ranges(fmt.Sprintf("10.%d.0.0/24", id), fmt.Sprintf("fd77:%d::/64", id)),
	}
	for k, v := range more {
		keys[k] = v
	}
	return n.conf(keys)
}

// TestVLANWithoutKernel: where the kernel cannot, ADD and STATUS say so and nothing is left.
func TestVLANWithoutKernel(t *testing.T) {
	if hasVLANs(t) {
		t.Skip("this kernel can")
	}
	n := newNode(t)
	for _, conf := range []string{
		n.vlan(100, nil), n.vlan(0, map[string]any{"name": "trunk", "vlanTrunk": []any{map[string]any{"id": 3}}, "ipam": ranges("10.9.0.0/24")}),
	} {
		n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: nettest.NewNS(t), conf: conf}, 999, "vlan", "CONFIG_BRIDGE_VLAN_FILTERING")
		n.clean("br0")
		n.refused(call{cmd: "STATUS", conf: conf}, 50, "CONFIG_BRIDGE_VLAN_FILTERING")
	}
}

// TestVLAN: pods of one VLAN reach each other and their gateway, and nobody in another VLAN.
func TestVLAN(t *testing.T) {
	if !hasVLANs(t) {
		t.Skip("this kernel has no VLANs on bridges; TestVLANWithoutKernel runs instead")
	}
	n := newNode(t)
	red, blue := n.vlan(100, nil), n.vlan(200, nil)
	pods := []string{nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)}
	a, b, c := n.add("a", pods[0], red), n.add("b", pods[1], red), n.add("c", pods[2], blue)
	for family := range 2 {
		hello(t, pods[0], pods[1], b.addr(family))
		hello(t, pods[0], n.ns, a.IPs[family].Gateway)
		hello(t, pods[2], n.ns, c.IPs[family].Gateway)
	}
	us, them := identityOf(t, a), identityOf(t, b)
	from, same, other := tap(t, pods[0], "eth0"), tap(t, pods[1], "eth0"), tap(t, pods[2], "eth0")
	mark, last := []byte("from red to everyone"), []byte("from the gateway of blue")
	from.send(ether(everyone, us.mac, 0x0800, ip4(us.v4, them.v4, unix.IPPROTO_UDP, udp(9, 9, mark))))
	same.sees(mark, mark)
	gw := tap(t, n.ns, "br0.200")
	gw.send(ether(everyone, us.mac, 0x0800, ip4(c.IPs[0].Gateway, c.addr(0), unix.IPPROTO_UDP, udp(9, 9, last))))
	if other.sees(mark, last) {
		t.Error("a frame left its VLAN")
	}
	check := call{cmd: "CHECK", id: "a", ifName: "eth0", netns: pods[0], conf: withPrev(t, red, a.raw)}
	n.quiet(check)
	for _, change := range [][]string{{"vlan", "add", "dev", a.Interfaces[1].Name, "vid", "300"}, {"vlan", "del", "dev", a.Interfaces[1].Name, "vid", "100"}} {
		if said := n.bridge(change...); said != "" { // bridge(8) says nothing; the plugin of that name does
			t.Errorf("bridge %v: %s", change, said)
		}
		n.refused(check, 999, "VLAN "+change[5])
	}
	if g := c.Interfaces[3]; g.Name != "br0.200" || g.Mac == "" || g.Sandbox != "" {
		t.Errorf("the result does not tell the gateway's link: %+v", c.Interfaces)
	}
	n.tool("ip", "link", "set", "br0.200", "down")
	n.refused(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pods[2], conf: withPrev(t, blue, c.raw)}, 999, "gateway link br0.200: is down")
	for _, id := range []string{"a", "b"} {
		n.del(id, red)
	}
	n.del("c", blue)
	n.clean("br0", "br0.100", gatewayPortOf(n, "br0.100"), "br0.200", gatewayPortOf(n, "br0.200"))
	n.quiet(gcOf(t, red))
	n.clean()
}

// gatewayPortOf finds the other end of a gateway's link.
func gatewayPortOf(n *node, name string) (port string) {
	n.host(func(h *netutil.Handle) {
		gate, err := h.Link(name)
		ok(n.t, err)
		l, err := h.LinkByIndex(gate.Peer)
		ok(n.t, err)
		port = l.Name
	})
	return port
}

// bridge runs bridge(8) on the node.
func (n *node) bridge(args ...string) string {
	n.t.Helper()
	return n.tool("bridge", args...)
}

// TestVLANTrunk: a trunk's pod speaks with tags to pods of its VLANs, and without one in the native VLAN.
func TestVLANTrunk(t *testing.T) {
	if !hasVLANs(t) {
		t.Skip("this kernel has no VLANs on bridges; TestVLANWithoutKernel runs instead")
	}
	n := newNode(t)
	trunk := n.conf(map[string]any{
		"vlanTrunk": []any{map[string]any{"id": 100}, map[string]any{"minID": 300, "maxID": 302}}, "macspoofchk": true, "ipMasq": false,
	})
	kept := n.vlan(200, map[string]any{"preserveDefaultVlan": true})
	pods := []string{nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)}
	tr, red, blue := n.add("t", pods[0], trunk), n.add("r", pods[1], n.vlan(100, nil)), n.add("b", pods[2], n.vlan(200, nil))
	k := n.add("k", pods[3], kept)
	hello(t, pods[0], n.ns, tr.IPs[0].Gateway)
	us := identityOf(t, tr)
	from, inRed, inBlue, inKept := tap(t, pods[0], "eth0"), tap(t, pods[1], "eth0"), tap(t, pods[2], "eth0"), tap(t, pods[3], "eth0")
	tagged := func(vlan uint16, mark string) {
		from.send(ether(everyone, us.mac, 0x8100, []byte{byte(vlan >> 8), byte(vlan), 8, 0},
			ip4(us.v4, red.addr(0), unix.IPPROTO_UDP, udp(9, 9, []byte(mark)))))
	}
	tagged(200, "to blue")
	tagged(100, "to red")
	if inRed.sees([]byte("to blue"), []byte("to red")) {
		t.Error("what is for blue comes to red")
	}
	from.send(ether(everyone, us.mac, 0x0800, ip4(us.v4, k.addr(0), unix.IPPROTO_UDP, udp(9, 9, []byte("native")))))
	if inKept.sees([]byte("to red"), []byte("native")) { // VLAN 1 stayed there
		t.Error("what is for red comes to the default VLAN")
	}
	last := []byte("from the gateway of blue")
	gw := tap(t, n.ns, "br0.200")
	gw.send(ether(everyone, us.mac, 0x0800, ip4(blue.IPs[0].Gateway, blue.addr(0), unix.IPPROTO_UDP, udp(9, 9, last))))
	if inBlue.sees([]byte("to blue"), last) {
		t.Error("a trunk reaches a VLAN that it is no member of")
	}
	for i, c := range []struct{ id, conf, prev string }{{"t", trunk, tr.raw}, {"r", n.vlan(100, nil), red.raw}, {"b", n.vlan(200, nil), blue.raw}, {"k", kept, k.raw}} {
		n.quiet(call{cmd: "CHECK", id: c.id, ifName: "eth0", netns: pods[i], conf: withPrev(t, c.conf, c.prev)})
	}
}
