package bridgeipam_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// changeover is a node on which the reference chain and bridge-ipam work on one directory.
type changeover struct {
	*node
	path          string
	before, after string // the same network, of the reference and of bridge-ipam
	keys          map[string]any
	pods          map[string]string
	results       map[string]result
	held          map[netip.Addr]string
}

func newChangeover(t *testing.T) *changeover {
	c := &changeover{node: newNode(t), path: cniPath(t), pods: map[string]string{}, results: map[string]result{}, held: map[netip.Addr]string{}}
	c.keys = map[string]any{"type": "bridge", "ipMasq": false, "ipam": ranges("10.22.0.0/29", "fd22::/64")}
	c.before = c.conf(c.keys)
	c.keys["type"] = "bridge-ipam"
	c.after = c.conf(c.keys)
	return c
}

// call is one by either.
func (c *changeover) call(cmd, id string, reference bool) call {
	out := call{cmd: cmd, id: id, ifName: "eth0", netns: c.pods[id], conf: c.after, path: c.path}
	if reference {
		out.conf, out.program = c.before, filepath.Join(c.path, "bridge")
	}
	return out
}

// attach expects addresses that nobody holds.
func (c *changeover) attach(reference bool, ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		c.pods[id] = nettest.NewNS(c.t)
		r := c.answered(c.call("ADD", id, reference))
		for f := range 2 {
			if other := c.held[r.addr(f)]; other != "" {
				c.t.Errorf("%s is given to %s and %s", r.addr(f), other, id)
			}
			c.held[r.addr(f)] = id
		}
		c.results[id] = r
	}
}

// detach expects that the link is gone, and the addresses from the books of host-local.
func (c *changeover) detach(reference bool, ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		c.quiet(c.call("DEL", id, reference))
		c.freed(id)
		at(c.t, c.pods[id], func(h *netutil.Handle) {
			if _, err := h.Link("eth0"); err == nil {
				c.t.Errorf("the link of %s is still there", id)
			}
		})
	}
}

func (c *changeover) freed(id string) {
	c.t.Helper()
	for f := range 2 {
		addr := c.results[id].addr(f)
		if _, err := os.Stat(filepath.Join(c.data, "net", addr.String())); err == nil {
			c.t.Errorf("%s is still held by host-local", addr)
		}
		delete(c.held, addr)
	}
}

// TestAdoption: the reference chain has pods, bridge-ipam takes its place with the same configuration, and later
// it comes back. No address is given twice, old pods go on, and a DEL by either frees what a pod had for both.
func TestAdoption(t *testing.T) {
	c := newChangeover(t)
	c.attach(true, "old1", "old2", "old3")
	c.attach(false, "new1", "new2") // the range has no more
	full := call{cmd: "ADD", id: "x", ifName: "eth0", netns: nettest.NewNS(t), conf: c.after, path: c.path}
	c.refused(full, 11, "no free address")
	for f := range 2 {
		if seen := hello(t, c.pods["new1"], c.pods["old1"], c.results["old1"].addr(f)); seen.Addr() != c.results["new1"].addr(f) {
			t.Errorf("seen as %s, is %s", seen, c.results["new1"].addr(f))
		}
	}
	check := c.call("CHECK", "old1", false)
	check.conf = withPrev(t, c.after, c.results["old1"].raw)
	c.quiet(check)

	c.detach(false, "old1")
	c.attach(false, "new3")
	if got, want := c.results["new3"].addr(0), c.results["old1"].addr(0); got != want {
		t.Errorf("%s, want the freed %s", got, want)
	}
	c.quiet(c.gc(c.keys, "old2", "new1", "new2", "new3")) // old3 is not listed
	c.freed("old3")
	c.detach(false, "new1", "new2")

	// And back: host-local finds a directory of its own, in which old2 and new3 have their addresses.
	c.attach(true, "back1", "back2", "back3")
	c.pods["x"] = nettest.NewNS(t)
	if a := c.run(c.call("ADD", "x", true)); a.code == 0 || !strings.Contains(a.stdout, "no IP addresses available") {
		t.Errorf("host-local gave more than there is: %+v", a)
	}
	c.detach(true, "old2", "new3")
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
