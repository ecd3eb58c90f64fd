package pod

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// worldCheckpoints has one checkpoint, of a pod whose only container is "c".
type worldCheckpoints struct{ *world }

func (w worldCheckpoints) Ready(context.Context, string) error {
	return w.effect("ready", func() error { return nil })
}

func (w worldCheckpoints) SaveContainer(_ context.Context, _ Sandbox, c Container, location string) error {
	return w.effect("save", func() error { w.signals = append(w.signals, "save "+string(c.ID)+" "+location); return nil })
}

func (w worldCheckpoints) SavePod(_ context.Context, s Sandbox, cs []Container, dir string) error {
	return w.effect("save", func() error {
		w.signals = append(w.signals, fmt.Sprintf("save %s %d %s", s.ID, len(cs), dir))
		return nil
	})
}

func (w worldCheckpoints) Check(string, SandboxConfig, []ContainerConfig) error {
	return w.effect("check", func() error { return nil })
}

func (w worldCheckpoints) UnpackSandbox(context.Context, string, Sandbox) error {
	return w.effect("unpack sandbox", func() error { return nil })
}

func (w worldCheckpoints) Unpack(_ context.Context, _ string, c Container) error {
	return w.effect("unpack", func() error { w.files[c.ID] = true; return nil })
}

func (w worldCheckpoints) Clean(_, id ID) error {
	w.set(func() { w.signals = append(w.signals, "clean "+string(id)) })
	return nil
}

func TestCheckpointsTakeWhatRuns(t *testing.T) {
	w := newWorld()
	m, id := made(t, w, true)
	if err := m.CheckpointContainer(t.Context(), string(id), "/a.tar"); err != nil {
		t.Fatal(err)
	}
	c, err := m.Container(string(id))
	if err != nil || c.State != Running {
		t.Errorf("after its checkpoint the container is %s, %v", c.State, err)
	}
	if err := m.CheckpointPod(t.Context(), string(c.SandboxID), []ID{id}, "/d"); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("save %s /a.tar save %s 1 /d", id, c.SandboxID); strings.Join(w.signals, " ") != want {
		t.Errorf("done: %v, want %s", w.signals, want)
	}
	other, err := m.CreateContainer(t.Context(), string(c.SandboxID), containerConfig("other"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.StartContainer(t.Context(), string(other)); err != nil {
		t.Fatal(err)
	}
	if err := m.CheckpointPod(t.Context(), string(c.SandboxID), []ID{id}, "/d"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a pod without one of its containers: %v", err)
	}
}

// While a checkpoint is written a stop waits: what is frozen cannot end.
func TestStopWaitsForCheckpoint(t *testing.T) {
	w := newWorld()
	m, id := made(t, w, true)
	gate := make(chan struct{})
	w.set(func() { w.block["save"] = gate })
	saved := make(chan error, 1)
	go func() { saved <- m.CheckpointContainer(t.Context(), string(id), "/a.tar") }()
	for held := false; !held; {
		m.locks.mu.Lock()
		held = m.locks.held[id] != nil
		m.locks.mu.Unlock()
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- m.StopContainer(ctx, string(id), 0) }()
	cancel()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("a stop during a checkpoint: %v", err)
	}
	if c, _ := m.Container(string(id)); c.State != Running {
		t.Errorf("the container is %s", c.State)
	}
	close(gate)
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	if err := m.StopContainer(t.Context(), string(id), 0); err != nil {
		t.Fatal(err)
	}
}

func TestNotReadyTouchesNothing(t *testing.T) {
	w := newWorld()
	m, id := made(t, w, true)
	w.set(func() { w.fail["ready"] = fmt.Errorf("no CRIU: %w", errdefs.ErrFailedPrecondition) })
	if err := m.CheckpointContainer(t.Context(), string(id), "/a.tar"); !errdefs.IsFailedPrecondition(err) || len(w.signals) > 0 {
		t.Errorf("a checkpoint without CRIU: %v, done %v", err, w.signals)
	}
	if _, _, err := m.RestorePod(t.Context(), "/d", sandboxConfig("r", ModePod), []ContainerConfig{containerConfig("c")}); !errdefs.IsFailedPrecondition(err) || len(m.Sandboxes()) != 1 {
		t.Errorf("a restore without CRIU: %v, pods %v", err, m.Sandboxes())
	}
}

func TestRestorePod(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	cfg, containers := sandboxConfig("r", ModePod), []ContainerConfig{containerConfig("c")}
	id, restored, err := m.RestorePod(t.Context(), "/d", cfg, containers)
	if err != nil {
		t.Fatal(err)
	}
	again, same, err := m.RestorePod(t.Context(), "/d", cfg, containers)
	if err != nil || again != id || len(same) != 1 || same[0] != restored[0] {
		t.Errorf("repeated: %s %v, %v; want %s %v", again, same, err, id, restored)
	}
	c, err := m.Container(string(restored[0].ID))
	if err != nil || c.State != Created || !c.Restore {
		t.Errorf("restored: %+v, %v", c, err)
	}
	if err := m.StartContainer(t.Context(), string(c.ID)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(w.signals, " "); got != "clean "+string(c.ID) {
		t.Errorf("after the start: %s", got)
	}
	if _, _, err := m.RestorePod(t.Context(), "/d", cfg, containers); !errdefs.IsAlreadyExists(err) {
		t.Errorf("restored over a pod that runs: %v", err)
	}
}

// TestRemovalDuringRestore: a removal waits for what is being made in the sandbox, so that it finds all of it.
func TestRemovalDuringRestore(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	gate := make(chan struct{})
	w.set(func() { w.block["prepare"] = gate })
	restored := make(chan error, 1)
	go func() {
		_, _, err := m.RestorePod(t.Context(), "/d", sandboxConfig("r", ModeContainer), []ContainerConfig{containerConfig("c")})
		restored <- err
	}()
	for len(m.table.view.Load().containers) == 0 {
		time.Sleep(time.Millisecond)
	}
	removed := make(chan error, 1)
	go func() { removed <- m.RemoveSandbox(t.Context(), string(m.Sandboxes()[0].ID)) }()
	time.Sleep(50 * time.Millisecond)
	close(gate)
	if err := <-restored; err == nil {
		t.Error("restored into a sandbox that is gone")
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
	w.mustBeEmpty(t)
}

// TestFailedRestoreLeavesNothing fails each effect of a restore in turn, once.
func TestFailedRestoreLeavesNothing(t *testing.T) {
	for _, step := range []string{"check", "unpack sandbox", "unpack"} {
		w := newWorld()
		m := w.start(t)
		w.set(func() { w.fail[step] = errors.New("no") })
		_, _, err := m.RestorePod(t.Context(), "/d", sandboxConfig("r", ModePod), []ContainerConfig{containerConfig("c")})
		if err == nil || len(m.Sandboxes()) > 0 || len(m.Containers()) > 0 || len(w.files) > 0 || len(w.attached) > 0 || len(w.pinned) > 0 {
			t.Errorf("%s failed: %v, left %v %v, files %v", step, err, m.Sandboxes(), m.Containers(), w.files)
		}
	}
}
