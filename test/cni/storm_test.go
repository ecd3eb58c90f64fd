package cni

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podwright/podwright/test/cni/lab"
)

// long says whether this is the run that takes its time: make stress.
func long() bool { return os.Getenv("PODWRIGHT_STRESS") == "long" }

// storm is how many pods come at once.
const storm = 200

// TestStorm lets 200 pods come at once to a node on which nothing ever ran, and go at once.
func TestStorm(t *testing.T) {
	requireRoot(t)
	rounds := 3
	if long() {
		rounds = 10
	}
	for round := range rounds {
		n := newNode(t)
		c := network(n, "10.88.0.0/16")
		begin := time.Now()
		live := arrive(t, n, c)
		takeInventory(t, n).expect(t, "after ADD", live)
		came := time.Since(begin)
		// A runtime that destroys the namespaces itself gets them deleted together; any other one by one.
		begin = time.Now()
		promised := round%3 != 0
		leave(t, n, c, live, promised)
		t.Logf("round %d: %d came within %s and went within %s, with a promise: %t", round, storm, came, time.Since(begin), promised)
		if promised {
			endPods(t, n, live)
		}
		takeInventory(t, n).expect(t, "after DEL", nil)
		if left, err := n.Run("nft", "list", "ruleset"); err != nil || left != "" {
			t.Errorf("after DEL: nftables has %s (%v)", left, err)
		}
		n.Close()
		if t.Failed() {
			return
		}
	}
}

// atOnce calls f for each of a number of pods, all at the same time.
func atOnce(count int, f func(i int) error) []error {
	errs := make([]error, count)
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errs
}

func report(t testing.TB, what string, errs []error) {
	t.Helper()
	for i, err := range errs {
		if err != nil {
			t.Errorf("%s of pod %d: %v", what, i, err)
		}
	}
}

func arrive(t testing.TB, n *lab.Node, c lab.Chain) map[string]attached {
	t.Helper()
	pods := make([]*lab.NS, storm)
	for i := range pods {
		pods[i] = newPod(t)
	}
	var mu sync.Mutex
	live := map[string]attached{}
	report(t, "ADD", atOnce(storm, func(i int) error {
		a, err := add(n, c, fmt.Sprintf("pod%d", i), pods[i])
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			live[a.ID] = a
		}
		return err
	}))
	return live
}

func leave(t testing.TB, n *lab.Node, c lab.Chain, live map[string]attached, promised bool) {
	t.Helper()
	report(t, "DEL", atOnce(storm, func(i int) error {
		a := live[fmt.Sprintf("pod%d", i)].Attachment
		a.Runtime = lab.Conf{promise: promised}
		return n.Del(c, a)
	}))
}

// endPods expects that all host ends are cut off, and that they go with their namespaces.
func endPods(t testing.TB, n *lab.Node, live map[string]attached) {
	t.Helper()
	detached(t, n)
	for _, a := range live {
		a.ns.Close()
	}
	waitForNoLinks(t, n)
}

// detached expects that all host ends are down and on no bridge.
func detached(t testing.TB, n *lab.Node) {
	t.Helper()
	links, err := linksOf(n.NS)
	must(t, err)
	for _, l := range links {
		if l.Info.Kind == "veth" && l.Name != lab.Uplink && (l.Master != "" || l.State != "DOWN") {
			t.Errorf("after DEL: %s is %s and on bridge %q", l.Name, l.State, l.Master)
		}
	}
}

// waitForNoLinks waits for the kernel, which clears namespaces away in the background.
func waitForNoLinks(t testing.TB, n *lab.Node) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if len(takeInventory(t, n).links) == 0 {
			return
		}
	}
}

// TestHostPortWhileOthersChange connects to a pod's host port all the while that others get and lose theirs. None is lost: only
// elements of maps change, no rule that a packet is just passing.
func TestHostPortWhileOthersChange(t *testing.T) {
	n := newNode(t)
	c := network(n, "10.88.0.0/16")
	pod := newPod(t)
	kept, err := add(n, c, "kept", pod)
	must(t, err)
	stop, err := pod.Serve("kept", 80)
	must(t, err)
	defer stop()
	port, _ := portsOf.Load("kept")
	at := fmt.Sprintf("%s:%d", lab.NodeAddr4, port)

	changes := 50
	if long() {
		changes = 300
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	var asked atomic.Int64
	for range 3 {
		asking.Go(func() {
			for ctx.Err() == nil {
				asked.Add(1)
				if got := n.LAN.Ask("tcp", at); !strings.HasPrefix(got, "kept sees ") {
					t.Errorf("connection %d to %s: %s", asked.Load(), at, got)
				}
			}
		})
	}
	for i := range changes {
		other := newPod(t)
		a, err := add(n, c, fmt.Sprintf("other%d", i), other)
		must(t, err)
		must(t, n.Del(c, a.Attachment))
		other.Close()
	}
	cancel()
	asking.Wait()
	must(t, n.Del(c, kept.Attachment))
	t.Logf("%d connections during %d changes", asked.Load(), 2*changes)
	if asked.Load() < int64(changes) {
		t.Errorf("%d connections only", asked.Load())
	}
}
