package pod

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// Checkpoints writes and reads checkpoints.
type Checkpoints interface {
	// Ready is nil when containers of the runtime handler can be checkpointed and restored on this host.
	Ready(ctx context.Context, handler string) error
	// SaveContainer writes a running container into a new archive. SavePod writes several, all as of one moment, into an
	// existing, empty directory. The containers run on when they return, and after an error nothing is left.
	SaveContainer(ctx context.Context, s Sandbox, c Container, location string) error
	SavePod(ctx context.Context, s Sandbox, containers []Container, dir string) error
	// Check compares what SavePod wrote with what is asked for.
	Check(dir string, cfg SandboxConfig, containers []ContainerConfig) error
	// UnpackSandbox and Unpack give back what the sandbox's containers shared, and a container's files and processes,
	// which the runtime finds in Layout.Restore. The container's bundle is complete.
	UnpackSandbox(ctx context.Context, dir string, s Sandbox) error
	Unpack(ctx context.Context, dir string, c Container) error
	// Clean removes what is not needed any more, or was cut off; absent is success.
	Clean(sandbox, id ID) error
}

// CheckpointContainer writes a running container into an archive at location. It runs on. Unlike other operations it
// ends with ctx: the container is frozen meanwhile.
func (m *Manager) CheckpointContainer(ctx context.Context, ref, location string) error {
	c, err := m.runningContainer(ref)
	if err != nil {
		return err
	}
	return m.checkpoint(ctx, c.SandboxID, []ID{c.ID}, func(s Sandbox, cs []Container) error {
		return m.Checkpoints.SaveContainer(ctx, s, cs[0], location)
	})
}

// CheckpointPod writes the containers ids, which must be all that run in the sandbox, into the directory dir.
func (m *Manager) CheckpointPod(ctx context.Context, ref string, ids []ID, dir string) error {
	s, err := m.Sandbox(ref)
	if err != nil {
		return err
	}
	return m.checkpoint(ctx, s.ID, ids, func(s Sandbox, cs []Container) error {
		var running []ID
		for _, c := range m.table.containersOf(s.ID) {
			if c.State == Running {
				running = append(running, c.ID)
			}
		}
		slices.Sort(running)
		if !slices.Equal(running, slices.Sorted(slices.Values(ids))) {
			return fmt.Errorf("container_ids %v: want exactly the running containers of sandbox %s, %v: %w", ids, s.ID, running, errdefs.ErrFailedPrecondition)
		}
		return m.Checkpoints.SavePod(ctx, s, cs, dir)
	})
}

// checkpoint keeps all other operations off the containers while save works on them.
func (m *Manager) checkpoint(ctx context.Context, sandbox ID, ids []ID, save func(Sandbox, []Container) error) error {
	s, err := m.readySandbox(sandbox)
	if err != nil {
		return err
	}
	if s.Config.Namespaces.User != nil {
		return fmt.Errorf("sandbox %s: checkpoints of pods with a user namespace of their own cannot be restored: %w", s.ID, errdefs.ErrNotImplemented)
	}
	if err := m.Checkpoints.Ready(ctx, s.Config.Handler); err != nil {
		return err
	}
	var containers []Container
	for _, id := range slices.Sorted(slices.Values(ids)) { // one order for all: two checkpoints never wait for each other
		unlock, err := m.locks.lock(ctx, id)
		if err != nil {
			return err
		}
		defer unlock()
		c, err := m.runningContainer(string(id))
		switch {
		case err != nil:
			return err
		case c.SandboxID != s.ID:
			return fmt.Errorf("container %s is not of sandbox %s: %w", id, s.ID, errdefs.ErrFailedPrecondition)
		case c.Config.Namespaces.PID == ModeTarget:
			return fmt.Errorf("container %s has the PID namespace of another one (TARGET), and cannot be restored without it: %w", id, errdefs.ErrNotImplemented)
		}
		containers = append(containers, c)
	}
	return save(s, containers)
}

// Restored is a container that waits to go on.
type Restored struct {
	Name string
	ID   ID
}

// RestorePod makes a sandbox and its containers, Created, from what CheckpointPod wrote. They go on when they are
// started. A repeated call joins the one in flight, or returns what it made. When it fails, or ctx ends first, all is
// gone before it returns.
func (m *Manager) RestorePod(ctx context.Context, dir string, cfg SandboxConfig, containers []ContainerConfig) (ID, []Restored, error) {
	if err := m.Checkpoints.Ready(ctx, cfg.Handler); err != nil {
		return "", nil, err
	}
	if err := m.Checkpoints.Check(dir, cfg, containers); err != nil {
		return "", nil, err
	}
	limit := createLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	op := m.ops.begin("run sandbox "+cfg.key(), limit, func(ctx context.Context, op *operation) (ID, error) {
		return m.restorePod(ctx, op, dir, cfg, containers)
	})
	id, err := op.wait(context.WithoutCancel(ctx)) // its own limit ends it, and what it made
	if err != nil {
		return "", nil, err
	}
	restored, err := m.restored(id, containers)
	return id, restored, err
}

func (m *Manager) restorePod(ctx context.Context, op *operation, dir string, cfg SandboxConfig, containers []ContainerConfig) (_ ID, err error) {
	for _, s := range m.table.view.Load().sandboxes {
		if s.State == Ready && s.Config.key() == cfg.key() {
			_, err := m.restored(s.ID, containers)
			return s.ID, err
		}
	}
	id, err := m.runSandbox(ctx, op, cfg)
	if err != nil {
		return "", err
	}
	// Crash from here on: the containers that are not complete go, the sandbox is the caller's to remove.
	defer func() {
		if err != nil {
			op.at("cleaning up after: " + err.Error())
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
			defer cancel()
			err = errors.Join(err, m.forgetSandbox(clean, id))
		}
	}()
	s, err := m.readySandbox(id)
	if err != nil {
		return "", err
	}
	op.at("unpacking what its containers share")
	if err := m.Checkpoints.UnpackSandbox(ctx, dir, s); err != nil {
		return "", err
	}
	for _, c := range containers {
		if err := m.restoreContainer(ctx, id, c, dir); err != nil {
			return "", fmt.Errorf("container %q: %w", c.Name, err)
		}
	}
	return id, nil
}

// restoreContainer is an operation of its own, for which a removal of the sandbox waits. It ends with ctx.
func (m *Manager) restoreContainer(ctx context.Context, sandbox ID, cfg ContainerConfig, dir string) error {
	limit := createLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline)
	}
	key := createKey(sandbox, fmt.Sprintf("%s/%d", cfg.Name, cfg.Attempt))
	op := m.ops.begin(key, limit, func(ctx context.Context, op *operation) (ID, error) {
		return m.createContainer(ctx, op, sandbox, cfg, dir)
	})
	_, err := op.wait(context.WithoutCancel(ctx))
	return err
}

// restored are the containers of a sandbox that RestorePod made, when they are all that it has and none was started.
func (m *Manager) restored(sandbox ID, containers []ContainerConfig) ([]Restored, error) {
	have := map[string]ID{}
	for _, c := range m.table.containersOf(sandbox) {
		if c.Restore && c.State == Created {
			have[c.Config.Name] = c.ID
		}
	}
	var out []Restored
	for _, c := range containers {
		id, ok := have[c.Name]
		if !ok {
			return nil, fmt.Errorf("sandbox %s is there already, and its container %q was not just restored: %w", sandbox, c.Name, errdefs.ErrAlreadyExists)
		}
		out = append(out, Restored{c.Name, id})
	}
	return out, nil
}

// cleanCheckpoint removes what a checkpoint that a crash cut off has left, and what a restored container needed until it ran.
func (m *Manager) cleanCheckpoint(c Container) {
	if err := m.Checkpoints.Clean(c.SandboxID, c.ID); err != nil {
		m.Logger.Warn("clean up a checkpoint", "container", c.ID, "pod", c.SandboxID, "err", err)
	}
}
