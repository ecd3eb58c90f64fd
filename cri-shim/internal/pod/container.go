package pod

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

func createKey(sandbox ID, rest string) string {
	return "create container " + string(sandbox) + "/" + rest
}

// CreateContainer makes a container that can be started, and returns its id. A repeated call joins the
// one in flight, or returns the id of the container that is Created already. When it fails nothing is
// left behind.
func (m *Manager) CreateContainer(ctx context.Context, sandbox string, cfg ContainerConfig) (ID, error) {
	s, err := m.Sandbox(sandbox)
	if err != nil {
		return "", err
	}
	key := createKey(s.ID, fmt.Sprintf("%s/%d", cfg.Name, cfg.Attempt))
	return m.ops.do(ctx, key, createLimit, func(ctx context.Context, op *operation) (ID, error) {
		for _, c := range m.table.containersOf(s.ID) {
			if c.Config.Name == cfg.Name && c.Config.Attempt == cfg.Attempt && c.State == Created {
				return c.ID, nil
			}
		}
		return m.createContainer(ctx, op, s.ID, cfg, "")
	})
}

// createContainer makes a container that starts anew, or with the name of a checkpoint's directory goes on from there.
func (m *Manager) createContainer(ctx context.Context, op *operation, sandbox ID, cfg ContainerConfig, checkpoint string) (ID, error) {
	s, err := m.readySandbox(sandbox)
	if err != nil {
		return "", err
	}
	c := Container{ID: newID(), SandboxID: sandbox, Config: cfg, State: Creating, BootID: m.BootID, CreatedAt: m.Now(), Restore: checkpoint != ""}
	if cfg.LogPath != "" && s.Config.LogDirectory != "" {
		c.LogPath = filepath.Join(s.Config.LogDirectory, cfg.LogPath)
	}
	if c.TargetPID, err = m.targetPID(cfg.Namespaces, sandbox); err != nil {
		return "", err
	}
	op.at("looking up its image")
	images, err := m.acquireImages(&c)
	if err != nil {
		return "", err
	}
	if err := m.table.addContainer(c); err != nil {
		return "", errors.Join(err, m.releaseImages(c))
	}
	// Crash from here on: recovery sees Creating and tears the container down by its id.
	op.at("preparing its root file system")
	effective, cgroup, err := m.Bundles.Prepare(ctx, s, c, images)
	if err == nil && c.Restore {
		op.at("unpacking its checkpoint")
		err = m.Checkpoints.Unpack(ctx, checkpoint, c)
	}
	if err == nil {
		op.at("asking the plugins")
		err = m.adjust(ctx, s, c, effective, cgroup)
	}
	if err != nil {
		op.at("cleaning up after: " + err.Error())
		return "", errors.Join(err, m.abandonContainer(ctx, c.ID))
	}
	return c.ID, nil
}

func (m *Manager) readySandbox(id ID) (Sandbox, error) {
	s, ok := m.table.sandbox(id)
	if !ok {
		return s, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	if s.State != Ready {
		return s, fmt.Errorf("sandbox %s is %s, not ready: %w", id, s.State, errdefs.ErrFailedPrecondition)
	}
	return s, nil
}

// targetPID finds the process whose PID namespace is to be joined: it must run, in the same sandbox.
func (m *Manager) targetPID(n Namespaces, sandbox ID) (int, error) {
	if n.PID != ModeTarget {
		return 0, nil
	}
	c, err := m.Container(string(n.Target))
	if err != nil || c.SandboxID != sandbox {
		return 0, fmt.Errorf("target_id %.80q: no such container in the sandbox: %w", n.Target, errdefs.ErrInvalidArgument)
	}
	if c.State != Running {
		return 0, fmt.Errorf("target_id %s is %s, not running: %w", c.ID, c.State, errdefs.ErrFailedPrecondition)
	}
	return c.PID, nil
}

func (m *Manager) abandonContainer(ctx context.Context, id ID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
	defer cancel()
	return m.teardownContainer(ctx, id)
}

// StartContainer runs a container that is Created. When its command cannot be executed, the error is
// ErrStart and the container is Exited with code 128 and reason StartError.
func (m *Manager) StartContainer(ctx context.Context, ref string) error {
	c, err := m.Container(ref)
	if err != nil {
		return err
	}
	_, err = m.ops.do(ctx, "start container "+string(c.ID), createLimit, func(ctx context.Context, op *operation) (ID, error) {
		return c.ID, m.startContainer(ctx, op, c.ID)
	})
	return err
}

func (m *Manager) startContainer(ctx context.Context, op *operation, id ID) error {
	unlock, err := m.locks.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	c, ok := m.table.container(id)
	if !ok {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	if c.State != Created {
		return fmt.Errorf("container %s is %s, not created: %w", id, c.State, errdefs.ErrFailedPrecondition)
	}
	s, err := m.readySandbox(c.SandboxID)
	if err != nil {
		return err
	}
	if c, err = m.table.changeContainer(id, func(c *Container) { c.State = Starting }); err != nil {
		return err
	}
	// Crash from here on: recovery asks the runtime whether the process runs.
	op.at("asking the plugins")
	err = m.ask(ctx, ContainerStarts, s, c)
	if err == nil {
		_, err = m.targetPID(c.Config.Namespaces, s.ID) // again: its pid may be another process's by now
	}
	if err != nil {
		err = fmt.Errorf("start container %s: %w", id, err)
		return errors.Join(err, m.failedStart(ctx, id, err))
	}
	op.at("starting its process")
	p, err := m.Runtime.Start(ctx, m.startSpec(s, c))
	if err != nil && m.ops.base.Err() != nil {
		return err // we end, and it may come about: recovery asks
	}
	if err != nil {
		return errors.Join(err, m.failedStart(ctx, id, err))
	}
	if c, err = m.table.changeContainer(id, func(c *Container) { c.started(p, m.Now()) }); err != nil {
		return err
	}
	if c.Restore {
		m.cleanCheckpoint(c)
	}
	m.tell(ctx, ContainerStarted, s, c)
	return nil
}

func (m *Manager) startSpec(s Sandbox, c Container) StartSpec {
	spec := StartSpec{
		ID: c.ID, SandboxID: s.ID, Bundle: m.Layout.Bundle(string(c.ID)), Handler: s.Config.Handler,
		CgroupPath: c.CgroupPath,
		TTY:        c.Config.TTY, Stdin: c.Config.Stdin, StdinOnce: c.Config.StdinOnce,
	}
	if c.LogPath != "" {
		spec.LogDir, spec.LogPath = s.Config.LogDirectory, c.LogPath
	}
	if c.Restore {
		spec.Restore = filepath.Join(m.Layout.Restore(string(s.ID), string(c.ID)), "checkpoint")
	}
	return spec
}

// started takes the process into the record; its end may have been seen before.
func (c *Container) started(p Process, now time.Time) {
	c.PID, c.StartedAt = p.PID, p.StartedAt
	if c.StartedAt.IsZero() {
		c.StartedAt = now
	}
	if c.State == Starting {
		c.State = Running
	}
	if p.Exit != nil && c.State == Running {
		c.exit(*p.Exit)
	}
}

// reasonStartError is the reason of containers whose process never ran.
const reasonStartError = "StartError"

// failedStart makes sure that nothing runs and moves the record to its end. When that cannot be made
// sure the record stays Starting, which Stop, Remove and recovery know how to end.
func (m *Manager) failedStart(ctx context.Context, id ID, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
	defer cancel()
	if err := m.Runtime.Delete(ctx, id); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	c, err := m.table.changeContainer(id, func(c *Container) {
		c.exit(Exit{Code: 128, FinishedAt: m.Now()})
		c.Reason, c.Message = reasonStartError, cause.Error()
	})
	if err == nil {
		m.tellContainer(ctx, ContainerStopped, c)
		m.unmount(ctx, c)
	}
	return err
}

// RemoveContainer kills a container if it runs, and forgets it. It may be repeated; a container that
// is not there is success.
func (m *Manager) RemoveContainer(ctx context.Context, ref string) error {
	c, err := m.Container(ref)
	if err != nil {
		return ignoreNotFound(err)
	}
	return m.removeContainer(ctx, c.ID)
}

// removeContainer serves the sandbox and recovery too, which see containers that were never complete.
func (m *Manager) removeContainer(ctx context.Context, id ID) error {
	_, err := m.ops.do(ctx, "remove container "+string(id), teardownLimit, func(ctx context.Context, op *operation) (ID, error) {
		unlock, err := m.locks.lock(ctx, id)
		if err != nil {
			return "", err
		}
		defer unlock()
		op.at("ending its processes and removing its files")
		return id, m.teardownContainer(ctx, id)
	})
	return ignoreNotFound(err)
}

// teardownContainer is the one way back: it serves a failed CreateContainer, RemoveContainer,
// RemoveSandbox and recovery. Every step may be repeated and all are tried; the record goes last.
func (m *Manager) teardownContainer(ctx context.Context, id ID) error {
	c, err := m.table.changeContainer(id, func(c *Container) { c.State = Removing })
	if err != nil {
		return ignoreNotFound(err)
	}
	// Crash from here on: recovery sees Removing and goes on.
	if err := m.Runtime.Delete(ctx, id); err != nil {
		// The files stay: something may still run on them.
		return fmt.Errorf("end container: %w", err)
	}
	err = errors.Join(m.Bundles.Remove(ctx, c.SandboxID, id), m.releaseImages(c))
	if err != nil {
		m.noteKilled(c)
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := m.table.dropContainer(c.SandboxID, id); err != nil {
		return err
	}
	m.tellContainer(ctx, ContainerRemoved, c)
	return nil
}

// noteKilled shows that a container has ended which its removal has killed, and not removed.
func (m *Manager) noteKilled(c Container) {
	if c.StartedAt.IsZero() || !c.Exit.FinishedAt.IsZero() {
		return
	}
	_, err := m.table.changeContainer(c.ID, func(c *Container) {
		c.Exit, c.Reason = Exit{Code: 137, Signal: 9, FinishedAt: m.Now()}, "Error"
	})
	if err != nil {
		m.Logger.Warn("record the end of a container", "container", c.ID, "pod", c.SandboxID, "err", err)
	}
}

// ExecSync runs a command in a running container and returns its output and exit code; see
// Runtime.Exec.
func (m *Manager) ExecSync(ctx context.Context, ref string, cmd []string, timeout time.Duration) (ExecResult, error) {
	c, err := m.runningContainer(ref)
	if err != nil {
		return ExecResult{}, err
	}
	return m.Runtime.Exec(ctx, ExecSpec{ID: c.ID, Cmd: cmd, Timeout: timeout})
}

// ReopenLog opens the log of a running container anew after it was renamed.
func (m *Manager) ReopenLog(ctx context.Context, ref string) error {
	c, err := m.runningContainer(ref)
	if err != nil {
		return err
	}
	return m.Runtime.ReopenLog(ctx, c.ID)
}

func (m *Manager) runningContainer(ref string) (Container, error) {
	c, err := m.Container(ref)
	if err != nil {
		return c, err
	}
	if c.State != Running {
		return c, fmt.Errorf("container %s is %s, not running: %w", c.ID, c.State, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}
