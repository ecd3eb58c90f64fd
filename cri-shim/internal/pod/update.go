package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"
)

// updateLimit is how long a change of limits may take: the kernel may have to reclaim memory first.
const updateLimit = time.Minute

// UpdateContainer changes the limits of a container that is Created or Running. Zero fields stay as they are.
// Afterwards all of it holds, or, with an error, nothing has changed. The OOM score of a process that runs
// already is left alone.
func (m *Manager) UpdateContainer(ctx context.Context, ref string, change Resources) error {
	c, err := m.Container(ref)
	if err != nil {
		return err
	}
	key := fmt.Sprintf("update container %s to %+v", c.ID, change)
	_, err = m.ops.do(ctx, key, updateLimit, func(ctx context.Context, op *operation) (ID, error) {
		op.at("asking the plugins")
		// Before the lock: a plugin may ask for other containers, or for the end of this one.
		change, err := m.askUpdate(ctx, c.ID, change)
		if err != nil {
			return "", err
		}
		if err := m.updateLocked(ctx, op, c.ID, change); err != nil {
			return "", err
		}
		if now, ok := m.table.container(c.ID); ok {
			m.tellContainer(ctx, ContainerUpdated, now)
		}
		return c.ID, nil
	})
	return err
}

func (m *Manager) updateLocked(ctx context.Context, op *operation, id ID, change Resources) error {
	unlock, err := m.locks.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return m.updateContainer(ctx, op, id, change)
}

func (m *Manager) updateContainer(ctx context.Context, op *operation, id ID, change Resources) error {
	c, err := m.updatableContainer(id)
	if err != nil {
		return err
	}
	want, err := c.changed(change)
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	if c, err = m.table.changeContainer(id, func(c *Container) { c.Updating = &want }); err != nil {
		return err
	}
	// Crash from here on: recovery sets the same limits once more.
	op.at("setting its limits")
	return m.applyUpdate(ctx, c)
}

func (m *Manager) updatableContainer(id ID) (Container, error) {
	c, ok := m.table.container(id)
	if !ok {
		return c, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	if !c.updatable() {
		return c, fmt.Errorf("container %s is %s, neither created nor running: %w", id, c.State, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

// applyUpdate sets the limits that the record names and notes the fact.
func (m *Manager) applyUpdate(ctx context.Context, c Container) error {
	err := m.setLimits(ctx, c, *c.Updating)
	_, noted := m.table.changeContainer(c.ID, func(now *Container) {
		now.Updating = nil
		if err == nil {
			now.Updated = c.Updating
		}
	})
	return errors.Join(err, noted)
}

func (m *Manager) setLimits(ctx context.Context, c Container, want Resources) error {
	resources, err := m.Bundles.SetLimits(ctx, c, want)
	if err == nil && c.State == Running {
		if err = m.Runtime.Update(ctx, c.ID, resources); err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
			defer cancel()
			_, undo := m.Bundles.SetLimits(ctx, c, c.Limits())
			err = errors.Join(err, undo)
		}
	}
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.ID, err)
	}
	return nil
}

// finishUpdate ends an update that a crash cut off.
func (m *Manager) finishUpdate(ctx context.Context, id ID) {
	ctx, cancel := context.WithTimeout(ctx, updateLimit)
	defer cancel()
	unlock, err := m.locks.lock(ctx, id)
	if err != nil {
		return // the process ends; the next one tries again
	}
	defer unlock()
	c, ok := m.table.container(id)
	if !ok || c.Updating == nil {
		return
	}
	if c.updatable() {
		err = m.applyUpdate(ctx, c)
	} else {
		_, err = m.table.changeContainer(id, func(c *Container) { c.Updating = nil })
	}
	if err != nil && !errdefs.IsNotFound(err) {
		m.Logger.Warn("finish an update after a crash", "container", id, "err", err)
	}
}

func (c Container) updatable() bool { return c.State == Created || c.State == Running }

// changed returns the container's limits after a change, or ErrInvalidArgument when they contradict each other.
func (c Container) changed(by Resources) (Resources, error) {
	was := c.Limits()
	now := was.with(by)
	if c.State == Running {
		now.OOMScoreAdj = was.OOMScoreAdj
		if !maps.Equal(now.HugepageCaps, was.HugepageCaps) {
			return was, fmt.Errorf("linux.hugepage_limits: cannot be changed while the container runs: %w", errdefs.ErrFailedPrecondition)
		}
	}
	if now.MemoryLimit > 0 && now.MemorySwap > 0 && now.MemorySwap < now.MemoryLimit {
		return was, fmt.Errorf("linux.memory_swap_limit_in_bytes %d: want memory_limit_in_bytes, %d, or more: it limits both together: %w",
			now.MemorySwap, now.MemoryLimit, errdefs.ErrInvalidArgument)
	}
	return now, nil
}

// with replaces what is set in by.
func (r Resources) with(by Resources) Resources {
	for _, n := range []struct{ to, from *int64 }{
		{&r.CPUPeriod, &by.CPUPeriod}, {&r.CPUQuota, &by.CPUQuota}, {&r.CPUShares, &by.CPUShares},
		{&r.MemoryLimit, &by.MemoryLimit}, {&r.MemorySwap, &by.MemorySwap}, {&r.OOMScoreAdj, &by.OOMScoreAdj},
	} {
		if *n.from != 0 {
			*n.to = *n.from
		}
	}
	for _, s := range []struct{ to, from *string }{{&r.CpusetCPUs, &by.CpusetCPUs}, {&r.CpusetMems, &by.CpusetMems}} {
		if *s.from != "" {
			*s.to = *s.from
		}
	}
	r.HugepageCaps = joined(r.HugepageCaps, by.HugepageCaps)
	r.Unified = joined(r.Unified, by.Unified)
	return r
}

// joined never changes a map that records share.
func joined[V any](old, by map[string]V) map[string]V {
	if len(by) == 0 {
		return old
	}
	out := make(map[string]V, len(old)+len(by))
	maps.Copy(out, old)
	maps.Copy(out, by)
	return out
}

// UpdateSandbox notes the limits of a whole pod. Its cgroup is the kubelet's, which sets them there; nil stays
// as it is.
func (m *Manager) UpdateSandbox(ctx context.Context, ref string, overhead, resources *Resources) error {
	s, err := m.Sandbox(ref)
	if err != nil {
		return err
	}
	set := func(s *Sandbox) {
		if overhead != nil {
			s.Overhead = overhead
		}
		if resources != nil {
			s.Resources = resources
		}
	}
	set(&s)
	step := m.begin()
	defer step.End()
	if err := step.Tell(ctx, SandboxUpdates, s, Container{}); err != nil {
		return fmt.Errorf("update sandbox %s: %w", s.ID, err)
	}
	if s, err = m.table.changeSandbox(s.ID, set); err != nil {
		return err
	}
	m.tellIn(ctx, step, SandboxUpdated, s, Container{})
	return nil
}
