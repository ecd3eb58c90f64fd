package pod

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

// view is an immutable picture of all records. Readers never wait for a writer.
type view struct {
	sandboxes  map[ID]Sandbox
	containers map[ID]Container
}

// table is the records in memory and on disk. A record is on disk before it is in the view. One that cannot be written,
// on a full disk say, holds up what makes more, but neither what has happened outside nor what gives back: see foundAgain.
type table struct {
	store Store
	log   *slog.Logger
	onEnd func(Container) // may be nil
	view  atomic.Pointer[view]

	// writing keeps the writes of one record in order. It is the only lock held over a write,
	// and no reader takes it.
	writing *keyedLock

	events *feed

	mu    sync.Mutex
	ended map[ID]chan struct{} // guarded by mu; closed when a container is Exited
}

func newTable(d Deps) *table {
	t := &table{store: d.Store, log: d.Logger, onEnd: d.Ended, writing: newKeyedLock(), events: newFeed(d.Now), ended: make(map[ID]chan struct{})}
	t.view.Store(&view{sandboxes: map[ID]Sandbox{}, containers: map[ID]Container{}})
	return t
}

// publish replaces the view by a changed copy.
func (t *table) publish(change func(*view)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.view.Load()
	next := &view{sandboxes: maps.Clone(old.sandboxes), containers: maps.Clone(old.containers)}
	change(next)
	t.view.Store(next)
}

func (t *table) sandbox(id ID) (Sandbox, bool) {
	s, ok := t.view.Load().sandboxes[id]
	return s, ok
}

func (t *table) container(id ID) (Container, bool) {
	c, ok := t.view.Load().containers[id]
	return c, ok
}

// containersOf returns the containers of one sandbox, in any state.
func (t *table) containersOf(sandbox ID) []Container {
	var out []Container
	for _, c := range t.view.Load().containers {
		if c.SandboxID == sandbox {
			out = append(out, c)
		}
	}
	return out
}

func (t *table) addSandbox(s Sandbox) error {
	if err := t.store.PutSandbox(s); err != nil {
		return fmt.Errorf("record sandbox %s: %w", s.ID, err)
	}
	t.publish(func(v *view) { v.sandboxes[s.ID] = s })
	return nil
}

func (t *table) addContainer(c Container) error {
	if err := t.store.PutContainer(c); err != nil {
		return fmt.Errorf("record container %s: %w", c.ID, err)
	}
	t.publish(func(v *view) { v.containers[c.ID] = c })
	return nil
}

// changeSandbox writes what f makes of the record. An illegal move is refused, a vanished record
// is ErrNotFound.
func (t *table) changeSandbox(id ID, f func(*Sandbox)) (Sandbox, error) {
	unlock, err := t.writing.lock(context.Background(), id)
	if err != nil {
		return Sandbox{}, err
	}
	defer unlock()
	was, ok := t.sandbox(id)
	if !ok {
		return Sandbox{}, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	now := was
	f(&now)
	if now.State != was.State && !CanMove(was.State, now.State) {
		return was, fmt.Errorf("sandbox %s: from %s to %s: %w", id, was.State, now.State, errdefs.ErrFailedPrecondition)
	}
	if err := t.addSandbox(now); err != nil {
		if !foundAgain(was.State, now.State) {
			return now, err
		}
		t.log.Warn("go on without the record", "pod", id, "state", now.State, "err", err)
		t.publish(func(v *view) { v.sandboxes[id] = now })
	}
	t.tellSandbox(was, now)
	return now, nil
}

// foundAgain says that recovery comes to now from the record of was: the runtime and the kernel know of what runs and
// what has ended, and every step of a removal may be repeated. Who frees a full disk begins with such moves.
func foundAgain(was, now State) bool {
	switch now {
	case Exited, NotReady, Removing:
		return true
	case Running:
		return was == Starting
	}
	return false
}

// changeContainer is changeSandbox for containers; it also wakes those who wait for the end.
func (t *table) changeContainer(id ID, f func(*Container)) (Container, error) {
	unlock, err := t.writing.lock(context.Background(), id)
	if err != nil {
		return Container{}, err
	}
	defer unlock()
	was, ok := t.container(id)
	if !ok {
		return Container{}, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	now := was
	f(&now)
	if now.State != was.State && !CanMove(was.State, now.State) {
		return was, fmt.Errorf("container %s: from %s to %s: %w", id, was.State, now.State, errdefs.ErrFailedPrecondition)
	}
	if err = t.addContainer(now); err != nil {
		if !foundAgain(was.State, now.State) {
			return was, err
		}
		t.log.Warn("go on without the record", "container", id, "pod", now.SandboxID, "state", now.State, "err", err)
		t.publish(func(v *view) { v.containers[id] = now })
	}
	t.tellContainer(was, now)
	if now.State == Exited {
		t.wake(id)
		if was.State != Exited && t.onEnd != nil {
			t.onEnd(now)
		}
	}
	return now, nil
}

func (t *table) dropSandbox(id ID) error {
	if err := t.store.DeleteSandbox(id); err != nil {
		return fmt.Errorf("forget sandbox %s: %w", id, err)
	}
	was, _ := t.sandbox(id)
	t.publish(func(v *view) { delete(v.sandboxes, id) })
	t.tellSandboxGone(was)
	return nil
}

func (t *table) dropContainer(sandbox, id ID) error {
	if err := t.store.DeleteContainer(sandbox, id); err != nil {
		return fmt.Errorf("forget container %s: %w", id, err)
	}
	was, _ := t.container(id)
	t.publish(func(v *view) { delete(v.containers, id) })
	t.tellContainerGone(was)
	t.wake(id)
	return nil
}

// whenEnded returns a channel that is closed once the container is Exited or forgotten.
func (t *table) whenEnded(id ID) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.view.Load().containers[id]
	if ended := t.ended[id]; ended != nil {
		return ended
	}
	ch := make(chan struct{})
	if !ok || c.State == Exited {
		close(ch)
		return ch
	}
	t.ended[id] = ch
	return ch
}

func (t *table) wake(id ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ch, ok := t.ended[id]; ok {
		close(ch)
		delete(t.ended, id)
	}
}

// find returns the key that equals ref, or the only one that begins with it.
func find[T any](all map[ID]T, ref string) (ID, error) {
	if _, ok := all[ID(ref)]; ok {
		return ID(ref), nil
	}
	if ref == "" {
		return "", fmt.Errorf("empty id: %w", errdefs.ErrNotFound)
	}
	var found ID
	for id := range all {
		if !strings.HasPrefix(string(id), ref) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("id %.80q is the beginning of more than one: %w", ref, errdefs.ErrNotFound)
		}
		found = id
	}
	if found == "" {
		return "", fmt.Errorf("id %.80q: %w", ref, errdefs.ErrNotFound)
	}
	return found, nil
}
