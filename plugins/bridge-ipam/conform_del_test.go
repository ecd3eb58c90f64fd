package bridgeipam_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestDelBeforeAdd: rule 5 of FEATURES.md D.7. Nothing is there, and whatever CNI_NETNS says, that is success.
func TestDelBeforeAdd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	for name, c := range map[string]call{
		"netns": {netns: nettest.NewNS(t)}, "no netns": {}, "no CNI_PATH": {path: "-"},
		"netns missing": {netns: "/nonexistent"}, "netns is a file": {netns: file},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c.cmd, c.id, c.ifName, c.conf = "DEL", "c", "eth0", n.conf(nil)
			n.quiet(c)
			n.clean()
			if _, err := os.Stat(n.data); err == nil {
				t.Error("DEL made a lease directory")
			}
		})
	}
}

// TestDelAfterDamage is rule 5 for attachments that exist: what is missing is no reason to keep the rest.
func TestDelAfterDamage(t *testing.T) {
	for name, spoil := range map[string]func(n *node, pod string){
		"nothing":           func(*node, string) {},
		"netns deleted":     func(n *node, pod string) { nettest.DeleteNS(n.t, pod) },
		"lease dir removed": func(n *node, _ string) { ok(n.t, os.RemoveAll(n.data)) },
		"bridge removed":    func(n *node, _ string) { at(n.t, n.ns, func(h *netutil.Handle) { ok(n.t, h.DeleteLink("br0")) }) },
		"link removed":      func(n *node, pod string) { at(n.t, pod, func(h *netutil.Handle) { ok(n.t, h.DeleteLink("eth0")) }) },
		"nftables flushed":  func(n *node, _ string) { n.flush() },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			pod := nettest.NewNS(t)
			conf := n.conf(nil)
			n.add("c", pod, conf)
			spoil(n, pod)
			for range 2 { // without CNI_NETNS and CNI_PATH, twice
				n.quiet(call{cmd: "DEL", id: "c", ifName: "eth0", conf: conf, path: "-"})
			}
			at(t, n.ns, func(h *netutil.Handle) { ok(t, h.DeleteLink("br0")) })
			n.clean()
		})
	}
}

// flush removes the plugin's nftables, as a firewall's restart does.
func (n *node) flush() {
	n.t.Helper()
	nettest.In(n.t, n.ns, func() error {
		nft, err := netutil.OpenNft("bridge-ipam")
		if err != nil {
			return err
		}
		defer func() { _ = nft.Close() }()
		nft.DeleteTable()
		return nft.Commit()
	})
}

// TestDelIsExact: rule 6. Neither another container nor another interface of the same one is touched.
func TestDelIsExact(t *testing.T) {
	n := newNode(t)
	conf := n.conf(nil)
	pod, other := nettest.NewNS(t), nettest.NewNS(t)
	first := n.add("a", pod, conf)
	b := n.add("b", other, conf)
	second := n.run(call{cmd: "ADD", id: "a", ifName: "eth1", netns: pod, conf: conf})
	if second.code != 0 {
		t.Fatal(second.stdout)
	}
	n.del("a", conf)
	n.del("aa", conf)
	n.quiet(call{cmd: "DEL", id: "a", ifName: "eth", conf: conf})
	n.quiet(call{cmd: "CHECK", id: "b", ifName: "eth0", netns: other, conf: withPrev(t, conf, b.raw)})
	n.quiet(call{cmd: "CHECK", id: "a", ifName: "eth1", netns: pod, conf: withPrev(t, conf, second.stdout)})
	// The freed address can be had again, those that are held cannot.
	again := func(addr string) call {
		return call{cmd: "ADD", id: "d", ifName: "eth0", netns: nettest.NewNS(t), conf: conf, args: "IP=" + addr}
	}
	var r result
	ok(t, json.Unmarshal([]byte(second.stdout), &r))
	for _, held := range []string{b.addr(0).String(), r.addr(0).String()} {
		n.refused(again(held), 999, held, "in use")
	}
	if a := n.run(again(first.addr(0).String())); a.code != 0 {
		t.Errorf("the freed address: %s", a.stdout)
	}
}

// TestDelFreesWithoutLink: rule 7. The address is free although the link was gone before.
func TestDelFreesWithoutLink(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"ipam": ranges("10.77.0.0/30")}) // one address
	pod := nettest.NewNS(t)
	n.add("c", pod, conf)
	at(t, pod, func(h *netutil.Handle) { ok(t, h.DeleteLink("eth0")) })
	n.refused(call{cmd: "ADD", id: "d", ifName: "eth0", netns: nettest.NewNS(t), conf: conf}, 11, "10.77.0.0/30", "no free address")
	n.del("c", conf)
	n.add("d", nettest.NewNS(t), conf)
}
