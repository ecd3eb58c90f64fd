package bridgeipam_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestParallelAdds: rule 16. On a fresh node, where bridge and chain have to be made by one of them.
func TestParallelAdds(t *testing.T) {
	const count = 24
	n := newNode(t)
	conf := n.conf(nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	owner := map[netip.Addr]string{}
	for i := range count {
		id, pod := fmt.Sprintf("c%d", i), nettest.NewNS(t)
		cmd, out, errs := n.start(call{cmd: "ADD", id: id, ifName: "eth0", netns: pod, conf: conf})
		wg.Go(func() {
			err := cmd.Wait()
			var r result
			if json.Unmarshal(out.Bytes(), &r) != nil || err != nil || len(r.IPs) != 2 {
				t.Errorf("ADD %s: %v: %s%s", id, err, out, errs)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for f := range 2 {
				if other, taken := owner[r.addr(f)]; taken {
					t.Errorf("%s is given to %s and %s", r.addr(f), other, id)
				}
				owner[r.addr(f)] = id
			}
		})
	}
	wg.Wait()
	var dels []*exec.Cmd
	for i := range count {
		cmd, _, _ := n.start(call{cmd: "DEL", id: fmt.Sprintf("c%d", i), ifName: "eth0", conf: conf})
		dels = append(dels, cmd)
	}
	for _, cmd := range dels {
		if err := cmd.Wait(); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	n.clean("br0")
}

// TestKilledAdd: rule 16. An ADD that is killed anywhere is healed by each of: the same ADD, DEL, GC.
func TestKilledAdd(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"ipam": ranges("10.77.0.0/30")}) // one address: a leak is noticed at once
	n.add("warm", nettest.NewNS(t), conf)
	n.del("warm", conf)
	killed := 0
	for i := range 36 {
		pod := nettest.NewNS(t)
		add := call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: conf}
		cmd, _, _ := n.start(add)
		time.Sleep(time.Duration(i/3) * 1500 * time.Microsecond)
		_ = cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		}
		switch i % 3 {
		case 0: // killed before its end: again. After its end it is attached, and DEL comes first.
			if !cmd.ProcessState.Success() {
				if a := n.run(add); a.code != 0 {
					n.del("c", conf) // it was killed after the commit, before it could say so
					n.add("c", pod, conf)
				}
			}
			n.del("c", conf)
		case 1:
			n.del("c", conf)
		case 2:
			n.quiet(n.gc(map[string]any{"ipam": ranges("10.77.0.0/30")}))
		}
		if i%3 == 2 {
			n.clean()
		} else if links, chains, leases := n.left(); len(chains)+len(leases) != 0 || len(links) > 1 {
			t.Errorf("after %d: %v %v %v", i, links, chains, leases)
		}
	}
	if killed == 0 {
		t.Error("no ADD was slow enough to be killed")
	}
	t.Logf("killed %d of 36", killed)
}
