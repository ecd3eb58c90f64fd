package bridgeipam_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// gc is a call of GC that keeps containers, each with its eth0.
func (n *node) gc(changes map[string]any, keep ...string) call {
	valid := []any{}
	for _, id := range keep {
		valid = append(valid, map[string]any{"containerID": id, "ifname": "eth0"})
	}
	all := map[string]any{"cni.dev/valid-attachments": valid}
	for k, v := range changes {
		all[k] = v
	}
	return call{cmd: "GC", conf: n.conf(all)}
}

// TestGC: rule 10. What is not listed goes, what is listed stays, whatever else lies in the directory.
func TestGC(t *testing.T) {
	n := newNode(t)
	conf := n.conf(nil)
	pods := map[string]string{}
	results := map[string]result{}
	for _, id := range []string{"a", "b", "c"} {
		pods[id] = nettest.NewNS(t)
		results[id] = n.add(id, pods[id], conf)
	}
	other := n.conf(map[string]any{"name": "other", "bridge": "br1", "ipam": ranges("10.78.0.0/24")})
	otherPod := nettest.NewNS(t)
	kept := n.add("z", otherPod, other)
	garbage := []string{
		filepath.Join(n.data, "net", "notes.txt"), filepath.Join(n.data, "net", "rec", "garbage"),
		filepath.Join(n.data, "net", "ip", "10.77.0.200"), filepath.Join(n.data, "net", "at", "x"),
	}
	for _, path := range garbage {
		ok(t, os.WriteFile(path, []byte("\x00garbage"), 0o600))
	}
	damaged, err := filepath.Glob(filepath.Join(n.data, "net", "rec", "*-*"))
	ok(t, err)
	n.quiet(n.gc(nil, "a", "b"))
	for _, id := range []string{"a", "b"} {
		n.quiet(call{cmd: "CHECK", id: id, ifName: "eth0", netns: pods[id], conf: withPrev(t, conf, results[id].raw)})
	}
	at(t, pods["c"], func(h *netutil.Handle) {
		if _, err := h.Link("eth0"); err == nil {
			t.Error("the link of c is still there")
		}
	})
	for _, path := range damaged { // a record that is broken is collected like any other
		if _, err := os.Stat(path); err == nil {
			ok(t, os.WriteFile(path, []byte("{"), 0o600))
		}
	}
	n.quiet(n.gc(nil, "b"))
	n.quiet(n.gc(nil, "b"))
	n.quiet(call{cmd: "CHECK", id: "z", ifName: "eth0", netns: otherPod, conf: withPrev(t, other, kept.raw)})
	n.quiet(n.gc(nil))
	n.quiet(n.gc(map[string]any{"name": "other", "bridge": "br1"}))
	for _, path := range garbage {
		if _, err := os.Stat(path); err != nil && !strings.Contains(path, "/ip/") {
			t.Errorf("a foreign file: %v", err)
		}
		_ = os.Remove(path)
	}
	n.clean()
}

// TestGCForms is rule 10 for the list: null is empty (libcni writes it so). Without the key the dead go, the living
// stay and it is refused; with none left there is nothing to refuse.
func TestGCForms(t *testing.T) {
	n := newNode(t)
	conf := n.conf(nil)
	pod := nettest.NewNS(t)
	r := n.add("c", pod, conf)
	dead := nettest.NewNS(t)
	n.add("dead", dead, conf)
	at(t, dead, func(h *netutil.Handle) { ok(t, h.DeleteLink("eth0")) })
	nettest.DeleteNS(t, dead)
	n.refused(call{cmd: "GC", conf: conf}, 7, "cni.dev/valid-attachments", "container c")
	if _, _, leases := n.left(); len(leases) != 4 { // of c: a record, a link to it and two addresses
		t.Errorf("leases %v", leases)
	}
	n.refused(call{cmd: "GC", conf: strings.Replace(conf, `"name"`, `"cni.dev/valid-attachments":7,"name"`, 1)}, 7, "cni.dev/valid-attachments")
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)})
	n.quiet(call{cmd: "GC", conf: strings.Replace(conf, `"name"`, `"cni.dev/valid-attachments":null,"name"`, 1)})
	n.clean()
	n.quiet(n.gc(nil)) // of a network that has nothing
}

// TestGCKeepsForeignBridges: a bridge that somebody else made, or that has a port, is not ours to remove.
func TestGCKeepsForeignBridges(t *testing.T) {
	n := newNode(t)
	at(t, n.ns, func(h *netutil.Handle) { ok(t, h.AddBridge("br0", nil, 0)) })
	n.add("c", nettest.NewNS(t), n.conf(nil))
	n.quiet(n.gc(nil))
	n.clean("br0")
	other := map[string]any{"bridge": "br1", "ipam": ranges("10.78.0.0/24")}
	n.add("c", nettest.NewNS(t), n.conf(other))
	at(t, n.ns, func(h *netutil.Handle) {
		br1, err := h.Link("br1")
		ok(t, err)
		ok(t, h.AddIfb("port", 0))
		port, err := h.Link("port")
		ok(t, err)
		ok(t, h.SetLink(port.Index, netutil.Change{Master: br1.Index}))
	})
	n.quiet(n.gc(other))
	n.clean("br0", "br1", "port")
}

// TestGCReportsAndGoesOn is rule 10 for faults: one thing that cannot be removed keeps nothing else.
func TestGCReportsAndGoesOn(t *testing.T) {
	n := newNode(t)
	conf := n.conf(nil)
	n.add("a", nettest.NewNS(t), conf)
	n.add("b", nettest.NewNS(t), conf)
	// A directory in the place of a temporary file cannot be removed by removing a file.
	stuck := filepath.Join(n.data, "net", "rec", ".tmp-stuck")
	ok(t, os.MkdirAll(filepath.Join(stuck, "x"), 0o700))
	n.refused(n.gc(nil), 999, ".tmp-stuck")
	ok(t, os.RemoveAll(stuck))
	n.clean()
}
