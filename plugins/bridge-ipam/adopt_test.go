package bridgeipam_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestAdoption: the reference chain has pods, bridge-ipam takes its place with the same configuration. No
// address is given twice, the old pods go on, their DEL frees what they had for both plugins, and back.
func TestAdoption(t *testing.T) {
	n := newNode(t)
	path := cniPath(t)
	ipam := ranges("10.22.0.0/29", "fd22::/64")
	keys := map[string]any{"type": "bridge", "ipMasq": false, "ipam": ipam}
	before, after := n.conf(keys), ""
	keys["type"] = "bridge-ipam"
	after = n.conf(keys)
	reference := filepath.Join(path, "bridge")

	pods, results := map[string]string{}, map[string]result{}
	held := map[netip.Addr]string{}
	add := func(id, program, conf string) {
		pods[id] = nettest.NewNS(t)
		r := n.answered(call{cmd: "ADD", id: id, ifName: "eth0", netns: pods[id], conf: conf, path: path, program: program})
		for f := range 2 {
			if other := held[r.addr(f)]; other != "" {
				t.Errorf("%s is given to %s and %s", r.addr(f), other, id)
			}
			held[r.addr(f)] = id
		}
		results[id] = r
	}
	for _, id := range []string{"old1", "old2", "old3"} {
		add(id, reference, before)
	}
	for _, id := range []string{"new1", "new2"} { // the range has no more
		add(id, binary, after)
	}
	full := call{cmd: "ADD", id: "x", ifName: "eth0", netns: nettest.NewNS(t), conf: after, path: path}
	n.refused(full, 11, "no free address")
	for f := range 2 {
		if seen := hello(t, pods["new1"], pods["old1"], results["old1"].addr(f)); seen.Addr() != results["new1"].addr(f) {
			t.Errorf("seen as %s, is %s", seen, results["new1"].addr(f))
		}
	}
	n.quiet(call{cmd: "CHECK", id: "old1", ifName: "eth0", netns: pods["old1"], conf: withPrev(t, after, results["old1"].raw)})

	// DEL of an old pod takes its link, and its address in the books of both.
	del := func(id string) {
		n.quiet(call{cmd: "DEL", id: id, ifName: "eth0", netns: pods[id], conf: after, path: path})
		for f := range 2 {
			addr := results[id].addr(f)
			if _, err := os.Stat(filepath.Join(n.data, "net", addr.String())); err == nil {
				t.Errorf("%s is still held by host-local", addr)
			}
			delete(held, addr)
		}
		at(t, pods[id], func(h *netutil.Handle) {
			if _, err := h.Link("eth0"); err == nil {
				t.Errorf("the link of %s is still there", id)
			}
		})
	}
	del("old1")
	add("new3", binary, after)
	if got, want := results["new3"].addr(0), results["old1"].addr(0); got != want {
		t.Errorf("%s, want the freed %s", got, want)
	}
	// GC knows them too: old2 is listed, old3 is not.
	n.quiet(n.gc(keys, "old2", "new1", "new2", "new3"))
	for id, want := range map[string]bool{"old2": true, "old3": false} {
		_, err := os.Stat(filepath.Join(n.data, "net", results[id].addr(0).String()))
		if (err == nil) != want {
			t.Errorf("host-local's lease of %s: %v", id, err)
		}
	}
	for _, id := range []string{"new1", "new2"} {
		n.quiet(call{cmd: "DEL", id: id, ifName: "eth0", netns: pods[id], conf: after, path: path})
		delete(held, results[id].addr(0))
		delete(held, results[id].addr(1))
	}
	// And back: host-local finds a directory of its own, in which old2 and new3 have their addresses.
	delete(held, results["old3"].addr(0))
	delete(held, results["old3"].addr(1))
	for i := range 3 {
		add(fmt.Sprintf("back%d", i), reference, before)
	}
	for _, id := range []string{"old2", "new3"} {
		n.quiet(call{cmd: "DEL", id: id, ifName: "eth0", netns: pods[id], conf: before, path: path, program: reference})
		if _, err := os.Stat(filepath.Join(n.data, "net", results[id].addr(0).String())); err == nil {
			t.Errorf("%s is still held", results[id].addr(0))
		}
	}
}

// TestAdoptionInParallel: both plugins at once on one directory, as while a node is changed over.
func TestAdoptionInParallel(t *testing.T) {
	n := newNode(t)
	path := cniPath(t)
	ipam := ranges("10.22.0.0/24")
	ipam["type"] = "host-local"
	conf := n.conf(map[string]any{"ipam": ipam})
	reference := n.conf(map[string]any{"type": "bridge", "ipMasq": false, "ipam": ipam})
	type started struct {
		wait func() error
		out  interface{ String() string }
	}
	first := call{cmd: "ADD", id: "first", ifName: "eth0", netns: nettest.NewNS(t), conf: reference, path: path, program: filepath.Join(path, "bridge")}
	owner := map[string]int{n.answered(first).addr(0).String(): -1}
	var all []started
	for i := range 16 {
		c := call{cmd: "ADD", id: fmt.Sprintf("c%d", i), ifName: "eth0", netns: nettest.NewNS(t), conf: conf, path: path}
		if i%2 == 0 {
			c.conf, c.program = reference, filepath.Join(path, "bridge")
		}
		cmd, out, _ := n.start(c)
		all = append(all, started{cmd.Wait, out})
	}
	for i, s := range all {
		err := s.wait()
		r := parse(t, s.out.String())
		if err != nil || len(r.IPs) != 1 {
			t.Errorf("%d: %v %s", i, err, s.out)
			continue
		}
		addr := r.addr(0).String()
		if other, taken := owner[addr]; taken {
			t.Errorf("%s is given to %d and %d", addr, other, i)
		}
		owner[addr] = i
	}
}
