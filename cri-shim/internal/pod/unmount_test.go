package pod

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"
)

// TestEndedContainersAreUnmounted: whichever way a container comes to its end, also while no process was there to see
// it, its root file system does not stay mounted until somebody removes it, and its end is told once. Those that may still
// run keep theirs.
func TestEndedContainersAreUnmounted(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	ctx := t.Context()
	ended := map[string]int{}
	w.ended = func(c Container) { ended[c.Config.Name+" "+c.Reason]++ } // under the world's lock
	s, err := m.RunSandbox(ctx, sandboxConfig("a", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string) ID {
		id, err := m.CreateContainer(ctx, string(s), containerConfig(name))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	run := func(name string) ID {
		id := create(name)
		if err := m.StartContainer(ctx, string(id)); err != nil {
			t.Fatal(err)
		}
		return id
	}
	created, runs, unseen, lost, fails := create("created"), run("runs"), run("unseen"), run("lost"), run("fails")
	mounted := func(when string, want ...ID) {
		t.Helper()
		m.ops.wg.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, id := range want {
			if !w.mounted[id] {
				t.Errorf("%s: %s is not mounted", when, w.containers[id].Config.Name)
			}
		}
		if len(w.mounted) != len(want) {
			t.Errorf("%s: %d are mounted, want %d", when, len(w.mounted), len(want))
		}
	}
	for name, end := range map[string]func(){
		"by itself": func() { w.end(run("exits"), Exit{Code: 1}) },
		"by a stop": func() { err = m.StopContainer(ctx, string(run("stopped")), time.Minute) },
		"unstarted": func() { err = m.StopContainer(ctx, string(create("unstarted")), time.Minute) },
		"at the start": func() {
			w.set(func() { w.fail["start"] = ErrStart })
			if started := m.StartContainer(ctx, string(create("unstartable"))); !errors.Is(started, ErrStart) {
				t.Errorf("got %v", started)
			}
			w.set(func() { delete(w.fail, "start") })
		},
	} {
		if end(); err != nil {
			t.Fatal(err)
		}
		mounted("an end "+name, created, runs, unseen, lost, fails)
	}

	w.set(func() { w.fail["unmount"] = errors.New("no luck") })
	w.end(fails, Exit{})
	mounted("an unmount that fails", created, runs, unseen, lost, fails)
	w.kill()
	w.end(unseen, Exit{})
	if err := (worldRuntime{w}).Delete(context.Background(), lost); err != nil {
		t.Fatal(err)
	}
	w.set(func() { clear(w.fail) })
	m = w.start(t)
	mounted("a restart", created, runs)
	if c, err := m.Container(string(fails)); err != nil || c.State != Exited {
		t.Errorf("got %+v, %v", c, err)
	}
	removeAll(t, m)
	w.mustBeEmpty(t)
	want := map[string]int{
		"exits Error": 1, "stopped Error": 1, "unstarted Error": 1, "unstartable StartError": 1, "fails Completed": 1,
		"unseen Completed": 1, "lost MonitorLost": 1,
	}
	if !maps.Equal(ended, want) {
		t.Errorf("told of %v, want %v", ended, want)
	}
}
