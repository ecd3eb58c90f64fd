package cni

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/podwright/podwright/test/cni/lab"
)

// TestKills does ADD, DEL, CHECK and GC at random, eight at a time, and kills a third of them at a random moment. Then
// GC with the list of those that live must leave exactly what is theirs, and no address may be lost.
// PODWRIGHT_SEED repeats a run as far as the kernel lets it.
func TestKills(t *testing.T) {
	requireRoot(t)
	ops := 600
	if long() {
		ops = 2000
	}
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("PODWRIGHT_SEED"), fmt.Sprint(time.Now().UnixNano())), 10, 64)
	must(t, err)
	n := newNode(t)
	k := &kills{Node: n, t: t, chain: network(n, "10.88.0.0/24")}
	k.run(seed, ops)
	t.Logf("seed %d: %d operations, %d killed: %v", seed, ops, k.killed, k.done)
	if t.Failed() {
		return
	}
	live := k.live()
	must(t, n.GC(k.chain, valid(live)))
	k.waitForLinks(len(live))
	takeInventory(t, n).expect(t, "after GC", live)
	k.talk(live)
	k.fill(live)
}

// slot is a place where one pod at a time is.
type slot struct {
	sync.Mutex
	state states
	id    string
	ns    *lab.NS
	pod   attached
}

type states int

const (
	absent states = iota
	present
	unsure // a call was killed: it has happened, or half, or not
)

type kills struct {
	*lab.Node
	t     *testing.T
	chain lab.Chain
	slots [60]slot
	// A runtime runs no ADD or DEL beside GC (specification, GC): ADD, DEL and CHECK share, GC excludes.
	gc sync.RWMutex

	mu     sync.Mutex
	killed int
	done   map[string]int
	next   int
}

func (k *kills) run(seed uint64, ops int) {
	k.done = map[string]int{}
	jobs := make(chan uint64)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for job := range jobs {
				k.one(rand.New(rand.NewPCG(seed, job)))
			}
		})
	}
	for i := range ops {
		jobs <- uint64(i)
	}
	close(jobs)
	all.Wait()
}

// one does one operation.
func (k *kills) one(r *rand.Rand) {
	if r.IntN(40) == 0 {
		k.gc.Lock()
		defer k.gc.Unlock()
		k.collect(r)
		return
	}
	k.gc.RLock()
	defer k.gc.RUnlock()
	s := &k.slots[r.IntN(len(k.slots))]
	s.Lock()
	defer s.Unlock()
	switch {
	case s.state == absent:
		k.add(s, r)
	case s.state == unsure && r.IntN(3) == 0: // the pod is lost: its namespace goes without DEL
		s.ns.Close()
		s.state = absent
	case s.state == unsure && r.IntN(2) == 0:
		k.again(s)
	case s.state == present && r.IntN(3) == 0:
		k.count("CHECK")
		if err := k.Check(k.chain, s.pod.Attachment); err != nil {
			k.t.Errorf("a pod that is well: %v", err)
		}
	default:
		k.del(s, r)
	}
}

func (k *kills) add(s *slot, r *rand.Rand) {
	k.mu.Lock()
	k.next++
	s.id = fmt.Sprintf("pod%d", k.next)
	k.mu.Unlock()
	var err error
	if s.ns, err = lab.NewNS(); err != nil {
		k.t.Error(err)
		return
	}
	k.t.Cleanup(s.ns.Close)
	s.state = unsure
	s.pod, err = add(k.Node, k.chain, s.id, s.ns, k.dagger("ADD", r))
	if err == nil {
		s.state = present
	}
	k.accept(err)
}

// again repeats an ADD that was killed: it works, or says that the first one was finished.
func (k *kills) again(s *slot) {
	k.count("ADD again")
	pod, err := add(k.Node, k.chain, s.id, s.ns)
	if err == nil {
		s.pod, s.state = pod, present
		return
	}
	k.count("ADD again: exists")
	links, e := linksOf(s.ns)
	if e != nil || len(links) != 2 {
		k.t.Errorf("ADD again of a pod with %d links (%v): %v", len(links), e, err)
	}
}

func (k *kills) del(s *slot, r *rand.Rand) {
	s.state = unsure
	err := k.Del(k.chain, lab.Attachment{ID: s.id, NetNS: s.ns.Path(), Started: k.dagger("DEL", r)})
	if err == nil {
		s.state = absent
		s.ns.Close()
	}
	k.accept(err)
}

func (k *kills) collect(r *rand.Rand) {
	live := k.live()
	k.accept(k.GC(k.chain, valid(live), k.dagger("GC", r)))
}

// dagger kills one call of three, within the time that calls take.
func (k *kills) dagger(command string, r *rand.Rand) func(*exec.Cmd) {
	k.count(command)
	after, kill := time.Duration(r.IntN(12_000))*time.Microsecond, r.IntN(3) == 0
	return func(cmd *exec.Cmd) {
		if kill {
			time.Sleep(after)
			_ = cmd.Process.Kill()
		}
	}
}

func (k *kills) count(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done[what]++
}

// accept takes no error but that of being killed.
func (k *kills) accept(err error) {
	var e *lab.Error
	if errors.As(err, &e) && e.Exit == -1 {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.killed++
	} else if err != nil {
		k.t.Error(err)
	}
}

func (k *kills) live() map[string]attached {
	live := map[string]attached{}
	for i := range k.slots {
		if s := &k.slots[i]; s.state == present {
			live[s.id] = s.pod
		}
	}
	return live
}

func valid(live map[string]attached) []lab.Valid {
	list := []lab.Valid{}
	for id := range live {
		list = append(list, lab.Valid{ContainerID: id, IfName: "eth0"})
	}
	return list
}

// waitForLinks waits for the kernel, which clears the namespaces of lost pods away in the background.
func (k *kills) waitForLinks(want int) {
	for range 500 {
		if len(takeInventory(k.t, k.Node).links) == want {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// talk: who lives reaches the gateway.
func (k *kills) talk(live map[string]attached) {
	stop, err := k.Serve("node", lab.Port)
	must(k.t, err)
	defer stop()
	for id, a := range live {
		if got, want := a.ns.Ask("tcp", fmt.Sprintf("10.88.0.1:%d", lab.Port)), "node sees "+a.addr.String(); got != want {
			k.t.Errorf("%s asks the gateway: %q, want %q", id, got, want)
		}
	}
}

// fill takes all addresses that are left, and expects that they are all there are.
func (k *kills) fill(live map[string]attached) {
	const all = 254 - 1 // of a /24 without network, broadcast and gateway
	for i := range all - len(live) {
		id := fmt.Sprintf("fill%d", i)
		ns := newPod(k.t)
		a, err := add(k.Node, k.chain, id, ns)
		if err != nil {
			k.t.Fatalf("address %d of %d: %v", len(live)+1, all, err)
		}
		live[id] = a
	}
	takeInventory(k.t, k.Node).expect(k.t, "when full", live)
	if _, err := add(k.Node, k.chain, "more", newPod(k.t)); err == nil {
		k.t.Errorf("address %d of %d was given out", all+1, all)
	}
}
