package podnet

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// fakePods are the attachments of a test, by id.
type fakePods struct {
	mu  sync.Mutex
	all map[pod.ID]pod.Attachment
}

func (p *fakePods) Attached() (ids []pod.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.all {
		ids = append(ids, id)
	}
	return ids
}

func (p *fakePods) Attachment(id pod.ID) (pod.Attachment, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.all[id]
	return a, ok
}

func (p *fakePods) drop(id pod.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, id)
}

// attach attaches sandboxes and forgets the calls for it.
func (w *world) attach(t *testing.T, ids ...string) *fakePods {
	t.Helper()
	pods := &fakePods{all: map[pod.ID]pod.Attachment{}}
	for _, id := range ids {
		a := w.attachment(id)
		a.Ports = []pod.PortMapping{{Protocol: "tcp", ContainerPort: 80, HostPort: 8080}}
		if _, err := w.Attach(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		pods.all[a.ID] = a
	}
	w.calls(t)
	return pods
}

func (w *world) awaitCall(t *testing.T, command string) {
	t.Helper()
	for range 3000 {
		b, _ := os.ReadFile(filepath.Join(w.dir, "calls"))
		if strings.Contains(string(b), `"Command":"`+command+`"`) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s was never called", command)
}

// TestCheckAsItWasAttached: with the configuration, the arguments and the result of ADD.
func TestCheckAsItWasAttached(t *testing.T) {
	w := newWorld(t)
	pods := w.attach(t, "aa")
	w.configure(t, "10-net.conflist", "another")
	if _, ok := w.Checked("aa"); ok {
		t.Error("checked before the first check")
	}
	w.checkOne(t.Context(), "aa", pods)
	calls := w.calls(t)
	if len(calls) != 1 || calls[0].Command != "CHECK" || calls[0].ID != "aa" || calls[0].NetNS != w.dir || calls[0].Conf["name"] != "net1" {
		t.Fatalf("got %+v", calls)
	}
	if calls[0].Conf["prevResult"] == nil || calls[0].Conf["runtimeConfig"].(map[string]any)["portMappings"] == nil {
		t.Errorf("got %v", calls[0].Conf)
	}
	if c, ok := w.Checked("aa"); !ok || c.Fault != "" || c.Checks != 1 || c.Failures != 0 || c.At.IsZero() || !c.Since.Equal(c.At) {
		t.Errorf("got %+v, %v", c, ok)
	}
}

// TestCheckTellsChanges: a fault is logged when it comes, when it changes and when it goes.
func TestCheckTellsChanges(t *testing.T) {
	w := newWorld(t)
	pods := w.attach(t, "aa")
	check := func(fault string) pod.NetworkCheck {
		w.write(t, "fail-CHECK", `{"cniVersion":"1.1.0","code":999,"msg":"`+fault+`"}`)
		if fault == "" {
			w.remove(t, "fail-CHECK")
		}
		w.checkOne(t.Context(), "aa", pods)
		c, _ := w.Checked("aa")
		return c
	}
	first := check("no route")
	if second := check("no route"); !second.Since.Equal(first.Since) || second.At.Equal(first.At) || second.Failures != 2 {
		t.Errorf("%+v, then %+v", first, second)
	}
	check("no address")
	if c := check(""); c.Fault != "" || c.Checks != 4 || c.Failures != 3 {
		t.Errorf("got %+v", c)
	}
	check("")
	for text, want := range map[string]int{"is not as it was made": 2, "no route": 1, "as it should be again": 1, "pod=aa namespace=ns name=web": 3} {
		if got := strings.Count(w.log.String(), text); got != want {
			t.Errorf("%q stands %d times in the log, want %d:\n%s", text, got, want, w.log)
		}
	}
}

func TestCheckIsLeftOut(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *world, *fakePods){
		"disableCheck": func(t *testing.T, w *world, _ *fakePods) {
			w.write(t, "cni/attached/aa.conflist", strings.Replace(w.list("net1", ""), `"plugins"`, `"disableCheck":true,"plugins"`, 1))
		},
		"before CNI 0.4": func(t *testing.T, w *world, _ *fakePods) {
			w.write(t, "cni/attached/aa.conflist", strings.Replace(w.list("net1", ""), `"1.1.0"`, `"0.3.1"`, 1))
		},
		"no result of ADD": func(t *testing.T, w *world, _ *fakePods) { w.remove(t, "cni/results/net1-aa-eth0") },
		"given back":       func(_ *testing.T, _ *world, p *fakePods) { p.drop("aa") },
		"DEL at work": func(t *testing.T, w *world, _ *fakePods) {
			done, err := w.checks.giveWay(t.Context(), "aa")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(done)
		},
		"GC at work": func(t *testing.T, w *world, _ *fakePods) {
			if !w.busy.TryAcquire(everyone) {
				t.Fatal("busy")
			}
			t.Cleanup(func() { w.busy.Release(everyone) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			pods := w.attach(t, "aa")
			change(t, w, pods)
			w.checkOne(t.Context(), "aa", pods)
			if got := w.commands(t); got != "" {
				t.Errorf("called: %s", got)
			}
			if c, ok := w.Checked("aa"); ok {
				t.Errorf("got %+v", c)
			}
		})
	}
	w := newWorld(t)
	pods := w.attach(t, "aa")
	w.write(t, "fail-CHECK", `{"cniVersion":"1.1.0","code":1,"msg":"plugin version does not allow CHECK"}`)
	w.checkOne(t.Context(), "aa", pods)
	if c, ok := w.Checked("aa"); ok {
		t.Errorf("a plugin without CHECK knows nothing: %+v", c)
	}
}

// TestDetachCutsOffACheck: nobody waits for a plugin that hangs, and its result counts for nothing.
func TestDetachCutsOffACheck(t *testing.T) {
	w := newWorld(t)
	pods := w.attach(t, "aa", "bb")
	w.write(t, "slow-CHECK", "")
	checked := make(chan struct{})
	go func() { w.checkOne(context.Background(), "aa", pods); close(checked) }()
	w.awaitCall(t, "CHECK")
	if err := w.Detach(t.Context(), w.attachment("bb")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-checked:
		t.Error("the DEL of another sandbox cut it off")
	default:
	}
	pods.drop("aa")
	if err := w.Detach(t.Context(), w.attachment("aa")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-checked:
	default:
		t.Error("DEL ran beside CHECK")
	}
	if c, ok := w.Checked("aa"); ok {
		t.Errorf("got %+v", c)
	}
	if len(w.checks.working) != 0 {
		t.Errorf("still at work: %v", w.checks.working)
	}
	w.mustBeEmpty(t)
}

// TestCheckGoesRound: everybody is checked again and again, new ones too, until the end is asked for.
func TestCheckGoesRound(t *testing.T) {
	w := newWorld(t)
	pods := w.attach(t, "aa", "bb")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Check(ctx, time.Millisecond, pods) }()
	atLeast := func(id pod.ID, n uint64) {
		for range 3000 {
			if c, _ := w.Checked(id); c.Checks >= n {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s was not checked %d times", id, n)
	}
	atLeast("aa", 2)
	atLeast("bb", 2)
	pods.drop("aa")
	for range 3000 {
		if _, ok := w.Checked("aa"); !ok {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, ok := w.Checked("aa"); ok {
		t.Error("the result of one that is gone is kept")
	}
	w.calls(t)
	w.write(t, "slow-CHECK", "")
	w.awaitCall(t, "CHECK")
	cancel() // the plugin hangs for a minute
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
