package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// grace is how long a stop still waits before it kills. A later call may shorten the wait, never
// lengthen it.
type grace struct {
	mu       sync.Mutex
	deadline time.Time     // guarded by mu
	shorter  chan struct{} // one slot: the deadline has moved
}

func newGrace() grace { return grace{shorter: make(chan struct{}, 1)} }

func (g *grace) shorten(to time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.deadline.IsZero() && !to.Before(g.deadline) {
		return
	}
	g.deadline = to
	select {
	case g.shorter <- struct{}{}:
	default:
	}
}

func (g *grace) remaining() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(g.deadline)
}

// StopContainer sends the stop signal, once over all calls, gives the container patience to end, kills
// what is left, and returns when its status says Exited. Patience 0 kills at once. When ctx ends first
// the stop goes on. A container that is not there is success.
func (m *Manager) StopContainer(ctx context.Context, ref string, patience time.Duration) error {
	c, err := m.Container(ref)
	if err != nil {
		return ignoreNotFound(err)
	}
	patience = max(patience, 0)
	deadline := time.Now().Add(patience)
	op := m.ops.begin("stop container "+string(c.ID), patience+teardownLimit, func(ctx context.Context, op *operation) (ID, error) {
		op.grace.shorten(deadline)
		if err := m.stopContainer(ctx, op, c.ID); err != nil {
			return "", err
		}
		op.at("telling the plugins")
		m.tellStopped(ctx, c.ID)
		return c.ID, nil
	})
	op.grace.shorten(deadline)
	_, err = op.wait(ctx)
	return ignoreNotFound(err)
}

func (m *Manager) stopContainer(ctx context.Context, op *operation, id ID) error {
	// A start in flight ends first; what it started is then stopped.
	unlock, err := m.locks.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	c, ok := m.table.container(id)
	switch {
	case !ok || c.State == Exited:
		return nil
	case c.State == Created || c.State == Creating:
		return m.endUnstarted(ctx, id)
	case c.State == Removing:
		return m.Runtime.Kill(ctx, id)
	}
	ended := m.table.whenEnded(id)
	if op.grace.remaining() > 0 {
		op.at("waiting for it to end by itself")
		if err := m.signalOnce(ctx, c); err != nil {
			return err
		}
		if m.endsInTime(ctx, ended, &op.grace) {
			return nil
		}
		if err := ctx.Err(); err != nil { // we end, and the container keeps the time that it was given
			return fmt.Errorf("wait for the end of container %s: %w", id, err)
		}
	}
	op.at("killing it")
	if err := m.Runtime.Kill(ctx, id); err != nil {
		return fmt.Errorf("kill container: %w", err)
	}
	return m.awaitEnd(ctx, id, ended)
}

// endUnstarted ends a container that never ran, so that a status after the stop says Exited.
func (m *Manager) endUnstarted(ctx context.Context, id ID) error {
	c, err := m.table.changeContainer(id, func(c *Container) {
		if c.State == Created {
			c.exit(Exit{Code: 137, FinishedAt: m.Now()})
			c.Message = "stopped before it was started"
		}
	})
	if err == nil && c.State == Exited {
		m.unmount(ctx, c)
	}
	return err
}

// signalOnce sends the stop signal unless the record says that it was sent: an application may take
// the second one for an order to hurry. A crash between the two steps sends it again, which is better
// than never.
func (m *Manager) signalOnce(ctx context.Context, c Container) error {
	if c.StopSent {
		return nil
	}
	if err := m.Runtime.Signal(ctx, c.ID, c.Effective.StopSignal); err != nil {
		return fmt.Errorf("signal container: %w", err)
	}
	if _, err := m.table.changeContainer(c.ID, func(c *Container) { c.StopSent = true }); err != nil {
		m.Logger.Warn("record the stop signal", "container", c.ID, "pod", c.SandboxID, "err", err)
	}
	return nil
}

func (m *Manager) endsInTime(ctx context.Context, ended <-chan struct{}, g *grace) bool {
	for {
		timer := time.NewTimer(g.remaining())
		select {
		case <-ended:
			timer.Stop()
			return true
		case <-g.shorter:
			timer.Stop()
		case <-timer.C:
			return false
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// awaitEnd waits for the end to arrive in the record after the last process is gone. The runtime is
// asked too: one that never heard of the container will not report its end.
func (m *Manager) awaitEnd(ctx context.Context, id ID, ended <-chan struct{}) error {
	const patience = 100 * time.Millisecond
	for {
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of container %s: %w", id, ctx.Err())
		case <-time.After(patience):
			if err := m.askForEnd(ctx, id); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
				return err
			}
		}
	}
}

func (m *Manager) askForEnd(ctx context.Context, id ID) error {
	procs, err := m.Runtime.List(ctx)
	if err != nil {
		return err
	}
	for _, p := range procs {
		if p.ID != id {
			continue
		}
		if p.Exit != nil {
			m.onExit(id, *p.Exit)
		}
		return nil
	}
	m.onExit(id, Exit{Code: 255, Lost: true, FinishedAt: m.Now()})
	return nil
}
