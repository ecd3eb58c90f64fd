package pod

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func sandboxConfig(name string, pid NamespaceMode) SandboxConfig {
	return SandboxConfig{Name: name, Namespace: "default", UID: "u-" + name, Namespaces: Namespaces{Network: ModePod, PID: pid, IPC: ModePod}}
}

func containerConfig(name string) ContainerConfig {
	return ContainerConfig{Name: name, Image: "img", Namespaces: Namespaces{Network: ModePod, PID: ModeContainer, IPC: ModePod}}
}

// story is the whole life of one pod. It ends at the first error.
func story(m *Manager) error {
	ctx := context.Background()
	s, err := m.RunSandbox(ctx, sandboxConfig("a", ModePod))
	if err != nil {
		return err
	}
	c, err := m.CreateContainer(ctx, string(s), containerConfig("c"))
	if err != nil {
		return err
	}
	if err := m.StartContainer(ctx, string(c)); err != nil {
		return err
	}
	if err := m.StopContainer(ctx, string(c), time.Minute); err != nil {
		return err
	}
	if err := m.RemoveContainer(ctx, string(c)); err != nil {
		return err
	}
	if err := m.StopSandbox(ctx, string(s)); err != nil {
		return err
	}
	return m.RemoveSandbox(ctx, string(s))
}

func removeAll(t *testing.T, m *Manager) {
	t.Helper()
	for _, s := range m.Sandboxes() {
		if err := m.RemoveSandbox(t.Context(), string(s.ID)); err != nil {
			t.Errorf("RemoveSandbox: %v", err)
		}
	}
}

func (w *world) mustBeEmpty(t *testing.T) {
	t.Helper()
	if len(w.sandboxes)+len(w.containers)+len(w.procs)+len(w.attached)+len(w.pinned)+len(w.files)+len(w.images) != 0 {
		t.Errorf("left: sandboxes %d, containers %d, processes %v, attached %v, pinned %v, files %v, images %v",
			len(w.sandboxes), len(w.containers), w.procs, w.attached, w.pinned, w.files, w.images)
	}
}

func TestStory(t *testing.T) {
	w := newWorld()
	if err := story(w.start(t)); err != nil {
		t.Fatal(err)
	}
	w.mustBeEmpty(t)
}

// TestCrashAnywhere kills the process before the k-th effect of a pod's life, for every k, starts
// anew, and checks that nothing is held which no record explains, that a retry succeeds, and that
// removal leaves nothing.
func TestCrashAnywhere(t *testing.T) {
	w := newWorld()
	if err := story(w.start(t)); err != nil {
		t.Fatal(err)
	}
	total := w.effects
	if total < 20 {
		t.Fatalf("only %d effects were counted", total)
	}
	for k := 1; k <= total; k++ {
		w := newWorld()
		m := w.start(t)
		w.set(func() { w.effects, w.crashAt = 0, k })
		if err := story(m); err == nil {
			t.Errorf("crash at %d: the story ended well", k)
		}
		w.start(t)
		if left := w.leftovers(); len(left) != 0 {
			t.Errorf("crash at %d: after recovery nobody explains: %v", k, left)
		}
		before := snapshotOf(w)
		m = w.start(t)
		if after := snapshotOf(w); after != before {
			t.Errorf("crash at %d: recovering twice differs:\n%s\n%s", k, before, after)
		}
		for _, s := range m.Sandboxes() {
			if err := m.StopSandbox(t.Context(), string(s.ID)); err != nil {
				t.Errorf("crash at %d: StopSandbox: %v", k, err)
			}
		}
		if err := story(m); err != nil {
			t.Errorf("crash at %d: retry: %v", k, err)
		}
		removeAll(t, m)
		w.mustBeEmpty(t)
	}
}

// snapshotOf is a text of all records' states, for comparing.
func snapshotOf(w *world) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for id, s := range w.sandboxes {
		lines = append(lines, string(id)+" "+string(s.State))
	}
	for id, c := range w.containers {
		lines = append(lines, string(id)+" "+string(c.State)+" "+c.Reason)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestFailedRunLeavesNothing(t *testing.T) {
	for _, at := range []string{"put sandbox", "pin", "attach", "prepare sandbox", "prepare init", "start", "pin pid"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld()
			w.fail[at] = errors.New("no luck")
			m := w.start(t)
			if _, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModePod)); err == nil || !strings.Contains(err.Error(), "no luck") {
				t.Fatalf("got %v", err)
			}
			w.mustBeEmpty(t)
		})
	}
}

// TestFullDisk: while no record can be written nothing new is made, what happens is shown, and all can be stopped and
// removed, also by a process that was started meanwhile: it is how a disk gets room again.
func TestFullDisk(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	ctx := t.Context()
	run := func(pid NamespaceMode, names ...string) (ID, []ID) {
		s, err := m.RunSandbox(ctx, sandboxConfig("p-"+string(pid), pid))
		var ids []ID
		for _, name := range names {
			id, createErr := m.CreateContainer(ctx, string(s), containerConfig(name))
			err = errors.Join(err, createErr)
			ids = append(ids, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		return s, ids
	}
	shared, ids := run(ModePod, "ends", "stopped", "runs", "waits")
	private, _ := run(ModeContainer)
	cfg := sandboxConfig("host", ModeContainer)
	cfg.Namespaces.Network = ModeNode
	host, err := m.RunSandbox(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids[:2] {
		if err := m.StartContainer(ctx, string(id)); err != nil {
			t.Fatal(err)
		}
	}
	// The disk is full before the third start has ended.
	gate, started := make(chan struct{}), make(chan error)
	w.set(func() { w.block["start"] = gate })
	go func() { started <- m.StartContainer(ctx, string(ids[2])) }()
	for c, _ := m.Container(string(ids[2])); c.State != Starting; c, _ = m.Container(string(ids[2])) {
		time.Sleep(time.Millisecond)
	}
	w.set(func() {
		w.fail["put sandbox"], w.fail["put container"] = syscall.ENOSPC, syscall.ENOSPC
		delete(w.block, "start")
	})
	close(gate)
	if err := <-started; err != nil {
		t.Errorf("a start that was under way: %v", err)
	}

	if _, err := m.RunSandbox(ctx, sandboxConfig("new", ModePod)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a new sandbox: %v", err)
	}
	if err := m.StartContainer(ctx, string(ids[3])); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a start: %v", err)
	}
	w.end(ids[0], Exit{Code: 3})
	if err := m.StopContainer(ctx, string(ids[1]), time.Minute); err != nil {
		t.Errorf("StopContainer: %v", err)
	}
	for i, want := range []State{Exited, Exited, Running, Created} {
		if c, err := m.Container(string(ids[i])); err != nil || c.State != want {
			t.Errorf("container %d: %s, want %s, %v", i, c.State, want, err)
		}
	}
	if c, _ := m.Container(string(ids[0])); c.Exit.Code != 3 {
		t.Errorf("got %+v", c.Exit)
	}
	if err := m.RemoveContainer(ctx, string(ids[0])); err != nil {
		t.Errorf("RemoveContainer: %v", err)
	}
	for _, id := range []ID{private, host} {
		if err := m.StopSandbox(ctx, string(id)); err != nil {
			t.Errorf("StopSandbox: %v", err)
		}
	}

	m = w.start(t)
	if left := w.leftovers(); len(left) != 0 {
		t.Errorf("nobody explains: %v", left)
	}
	for id, want := range map[ID]State{shared: Ready, private: NotReady, host: NotReady} {
		if s, err := m.Sandbox(string(id)); err != nil || s.State != want {
			t.Errorf("after a restart sandbox %s: %s, want %s, %v", id, s.State, want, err)
		}
	}
	for i, want := range map[int]State{1: Exited, 2: Running, 3: Created} {
		if c, err := m.Container(string(ids[i])); err != nil || c.State != want {
			t.Errorf("after a restart container %d: %s, want %s, %v", i, c.State, want, err)
		}
	}
	if err := m.StopSandbox(ctx, string(shared)); err != nil {
		t.Errorf("StopSandbox: %v", err)
	}
	removeAll(t, m)
	w.mustBeEmpty(t)
}

// TestStartOutlivesItsManager: the runtime goes on with a start whose cri-shim was killed. Nobody may see the container
// as Created meanwhile: it would be started anew.
func TestStartOutlivesItsManager(t *testing.T) {
	for what, c := range map[string]struct {
		runs bool
		want State
	}{"it comes about": {true, Running}, "it fails": {false, Created}} {
		t.Run(what, func(t *testing.T) {
			w := newWorld()
			m := w.start(t)
			s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
			if err != nil {
				t.Fatal(err)
			}
			id, err := m.CreateContainer(t.Context(), string(s), containerConfig("c"))
			if err != nil {
				t.Fatal(err)
			}
			w.kill()
			ends := make(chan struct{})
			w.set(func() {
				c := w.containers[id]
				c.State = Starting
				w.containers[id] = c
				w.starting = map[ID]chan struct{}{id: ends}
			})
			go func() {
				time.Sleep(50 * time.Millisecond)
				w.set(func() {
					if c.runs {
						w.procs[id] = &Process{ID: id, PID: 7, StartedAt: time.Now()}
					}
				})
				close(ends)
			}()
			m = w.start(t)
			if got, err := m.Container(string(id)); err != nil || got.State != c.want {
				t.Errorf("got %s, want %s, %v", got.State, c.want, err)
			}
			removeAll(t, m)
			w.mustBeEmpty(t)
		})
	}
}

func TestFailedCleanUpStaysListed(t *testing.T) {
	w := newWorld()
	w.fail["attach"], w.fail["detach"] = errors.New("no add"), errors.New("no del")
	m := w.start(t)
	_, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
	if err == nil || !strings.Contains(err.Error(), "no add") || !strings.Contains(err.Error(), "no del") {
		t.Fatalf("got %v", err)
	}
	all := m.Sandboxes()
	if len(all) != 1 || all[0].State != NotReady || !all[0].Attached {
		t.Fatalf("got %+v", all)
	}
	w.set(func() { clear(w.fail) })
	removeAll(t, m)
	w.mustBeEmpty(t)
}

// TestRetryJoins: the caller gives up, the work goes on, the retry gets its result.
func TestRetryJoins(t *testing.T) {
	w := newWorld()
	gate := make(chan struct{})
	w.block["attach"] = gate
	m := w.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := m.RunSandbox(ctx, sandboxConfig("a", ModeContainer))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "attaching its network") {
		t.Fatalf("got %v", err)
	}
	if n := len(m.Sandboxes()); n != 0 {
		t.Errorf("%d sandboxes are listed before one is Ready", n)
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := m.RunSandbox(ctx, sandboxConfig("a", ModeContainer)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while it is in flight: %v", err)
		}
		cancel()
	}
	var wg sync.WaitGroup
	ids := make([]ID, 8)
	for i := range ids {
		wg.Go(func() { ids[i], _ = m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer)) })
	}
	close(gate)
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("got %v", ids)
		}
	}
	m.ops.wg.Wait()
	if n := len(m.Sandboxes()); n != 1 {
		t.Errorf("%d sandboxes", n)
	}
}

// TestLookingNeverWaits: while a teardown hangs, lists and lookups of everything answer, the hanging pod included. One
// that waited would wait for ever here.
func TestLookingNeverWaits(t *testing.T) {
	w := newWorld()
	m, hanging, c := running(t, w)
	other, err := m.RunSandbox(t.Context(), sandboxConfig("b", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	w.set(func() { w.block["detach"] = gate })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := m.StopSandbox(ctx, string(hanging)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("it does not hang: %v", err)
	}
	if got := len(m.Sandboxes()); got != 2 {
		t.Errorf("%d sandboxes", got)
	}
	if got := len(m.Containers()); got != 1 {
		t.Errorf("%d containers", got)
	}
	for id, want := range map[ID]State{hanging: NotReady, other: Ready} {
		if s, err := m.Sandbox(string(id)); err != nil || s.State != want {
			t.Errorf("%s, %v; want %s", s.State, err, want)
		}
	}
	if got, err := m.Container(string(c)); err != nil || got.State != Exited {
		t.Errorf("container: %s, %v", got.State, err)
	}
	close(gate)
	if err := m.StopSandbox(t.Context(), string(hanging)); err != nil {
		t.Error(err)
	}
}

func running(t *testing.T, w *world) (*Manager, ID, ID) {
	t.Helper()
	m := w.start(t)
	s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.CreateContainer(t.Context(), string(s), containerConfig("c"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.StartContainer(t.Context(), string(c)); err != nil {
		t.Fatal(err)
	}
	return m, s, c
}

// TestOperations: what is in flight is shown with its stage, for as long as it is.
func TestOperations(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	gate := make(chan struct{})
	w.set(func() { w.block["attach"] = gate })
	begin, done := time.Now(), make(chan error)
	go func() {
		_, err := m.RunSandbox(t.Context(), sandboxConfig("a b", ModeContainer))
		done <- err
	}()
	var at []Operation
	for len(at) == 0 || !strings.HasPrefix(at[0].Stage, "attaching its network") {
		time.Sleep(time.Millisecond)
		at = m.Operations()
	}
	if len(at) != 1 || at[0].Kind != "run sandbox" || at[0].Since.Before(begin) || at[0].Since.After(time.Now()) {
		t.Errorf("got %+v", at)
	}
	close(gate)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if at := m.Operations(); len(at) != 0 {
		t.Errorf("afterwards: %+v", at)
	}
}

func TestStopSignalsOnceAndALaterCallShortens(t *testing.T) {
	w := newWorld()
	w.deaf = true
	m, _, c := running(t, w)
	first := make(chan error, 1)
	go func() { first <- m.StopContainer(context.Background(), string(c), time.Hour) }()
	for len(signals(w)) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := m.StopContainer(t.Context(), string(c), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if got := signals(w); !slices.Equal(got, []string{"SIGTERM"}) {
		t.Errorf("signals %v", got)
	}
	rec, err := m.Container(string(c))
	if err != nil || rec.State != Exited || rec.Exit.Code != 137 || rec.Reason != "Error" {
		t.Errorf("got %+v, %v", rec, err)
	}
}

// TestEndDuringGrace: when cri-shim ends, a container keeps the time that it was given.
func TestEndDuringGrace(t *testing.T) {
	t.Parallel() // it takes as long as short work may
	w := newWorld()
	w.deaf = true
	m, _, c := running(t, w)
	stopped := make(chan error, 1)
	go func() { stopped <- m.StopContainer(context.Background(), string(c), time.Hour) }()
	for len(signals(w)) == 0 {
		time.Sleep(time.Millisecond)
	}
	w.kill()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if p := w.procs[c]; p == nil || p.Exit != nil {
		t.Errorf("it was killed: %+v", p)
	}
}

// TestEndDuringStart: what is being started when cri-shim ends is not taken back; the next one finds out what came of it.
func TestEndDuringStart(t *testing.T) {
	t.Parallel() // it takes as long as short work may
	w := newWorld()
	m, c := made(t, w, false)
	gate := make(chan struct{})
	w.set(func() { w.block["start"], w.fail["start"] = gate, context.Canceled })
	started := make(chan error, 1)
	go func() { started <- m.StartContainer(context.Background(), string(c)) }()
	for rec, _ := m.Container(string(c)); rec.State != Starting; rec, _ = m.Container(string(c)) {
		time.Sleep(time.Millisecond)
	}
	ended := make(chan struct{})
	go func() { w.kill(); close(ended) }()
	<-m.ops.base.Done()
	close(gate)
	if err := <-started; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ended
	if got := w.containers[c].State; got != Starting {
		t.Errorf("the container is %s", got)
	}
}

// TestStopSignalsOnceThoughItFails: an application may take the second signal for an order to hurry.
func TestStopSignalsOnceThoughItFails(t *testing.T) {
	w := newWorld()
	w.deaf = true
	m, _, c := running(t, w)
	w.set(func() { w.fail["kill"] = errors.New("no kill today") })
	if err := m.StopContainer(t.Context(), string(c), time.Millisecond); err == nil {
		t.Fatal("it was killed")
	}
	w.set(func() { delete(w.fail, "kill") })
	if err := m.StopContainer(t.Context(), string(c), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if got := signals(w); !slices.Equal(got, []string{"SIGTERM"}) {
		t.Errorf("signals %v", got)
	}
}

// TestContainerIsMadeOnce: who asks again gets the id of what is there.
func TestContainerIsMadeOnce(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[ID]bool{}
	for range 2 {
		c, err := m.CreateContainer(t.Context(), string(s), containerConfig("c"))
		if err != nil {
			t.Fatal(err)
		}
		ids[c] = true
	}
	if len(ids) != 1 || len(m.Containers()) != 1 {
		t.Errorf("got %v, %d containers", ids, len(m.Containers()))
	}
}

func signals(w *world) (out []string) {
	w.set(func() { out = slices.Clone(w.signals) })
	return out
}

func TestStopWhenNobodyTellsTheEnd(t *testing.T) {
	w := newWorld()
	m, _, c := running(t, w)
	w.set(func() { delete(w.procs, c) })
	if err := m.StopContainer(t.Context(), string(c), 0); err != nil {
		t.Fatal(err)
	}
	rec, _ := m.Container(string(c))
	if rec.State != Exited || rec.Exit.Code != 255 || rec.Reason != "MonitorLost" {
		t.Errorf("got %+v", rec)
	}
}

func TestStartFailure(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.CreateContainer(t.Context(), string(s), containerConfig("c"))
	if err != nil {
		t.Fatal(err)
	}
	w.set(func() { w.fail["start"] = ErrStart })
	if err := m.StartContainer(t.Context(), string(c)); !errors.Is(err, ErrStart) {
		t.Fatalf("got %v", err)
	}
	rec, _ := m.Container(string(c))
	if rec.State != Exited || rec.Exit.Code != 128 || rec.Reason != "StartError" || rec.Message == "" {
		t.Errorf("got %+v", rec)
	}
	if err := m.StartContainer(t.Context(), string(c)); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("second start: %v", err)
	}
}

func TestUnknownIDs(t *testing.T) {
	m := newWorld().start(t)
	ctx := t.Context()
	for name, err := range map[string]error{
		"StopSandbox": m.StopSandbox(ctx, "nope"), "RemoveSandbox": m.RemoveSandbox(ctx, "../x"),
		"StopContainer": m.StopContainer(ctx, "nope", 0), "RemoveContainer": m.RemoveContainer(ctx, ""),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m.StartContainer(ctx, "nope"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("StartContainer: %v", err)
	}
	if _, err := m.CreateContainer(ctx, "nope", containerConfig("c")); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("CreateContainer: %v", err)
	}
}

func TestNothingStartsInAStoppedSandbox(t *testing.T) {
	w := newWorld()
	m, s, c := running(t, w)
	if err := m.StopSandbox(t.Context(), string(s)); err != nil {
		t.Fatal(err)
	}
	if rec, _ := m.Container(string(c)); rec.State != Exited {
		t.Errorf("container is %s", rec.State)
	}
	if _, err := m.CreateContainer(t.Context(), string(s), containerConfig("d")); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("CreateContainer: %v", err)
	}
	if len(w.attached)+len(w.pinned) != 0 {
		t.Errorf("attached %v, pinned %v", w.attached, w.pinned)
	}
}

// TestTargetThatHasEnded: its pid may be another process's by then, whose PID namespace must not be joined.
func TestTargetThatHasEnded(t *testing.T) {
	w := newWorld()
	m, s, target := running(t, w)
	cfg := containerConfig("debug")
	cfg.Namespaces.PID, cfg.Namespaces.Target = ModeTarget, target
	id, err := m.CreateContainer(t.Context(), string(s), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.end(target, Exit{})
	if err := m.StartContainer(t.Context(), string(id)); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), string(target)) {
		t.Errorf("got %v", err)
	}
	if c, err := m.Container(string(id)); err != nil || c.State != Exited || c.Reason != "StartError" || w.procs[id] != nil {
		t.Errorf("it is %s, %s, %v", c.State, c.Reason, err)
	}
}

func TestMissingImageLeavesNothing(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	cfg := containerConfig("c")
	cfg.Image = "missing"
	if _, err := m.CreateContainer(t.Context(), string(s), cfg); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if len(w.containers) != 0 || len(w.images) != 0 {
		t.Errorf("containers %v, images %v", w.containers, w.images)
	}
}
