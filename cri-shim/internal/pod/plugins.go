package pod

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// PluginEvent is something that happens to a sandbox or a container. Those before the fact may be refused by a plugin.
type PluginEvent string

// The events, in the order of a life.
const (
	SandboxRuns      PluginEvent = "run sandbox" // before the fact
	SandboxUpdates   PluginEvent = "update sandbox"
	SandboxUpdated   PluginEvent = "sandbox updated"
	ContainerCreated PluginEvent = "container created" // its creation is asked for by Adjust
	ContainerStarts  PluginEvent = "start container"   // before the fact
	ContainerStarted PluginEvent = "container started"
	ContainerUpdated PluginEvent = "container updated" // its update is asked for by Update
	ContainerStopped PluginEvent = "container stopped"
	ContainerRemoved PluginEvent = "container removed"
	SandboxStopped   PluginEvent = "sandbox stopped" // its containers are, its network is still there
	SandboxRemoved   PluginEvent = "sandbox removed"
)

// Plugins are programs of the node's administrator that are told what happens to pods and containers, and may
// change containers. Whatever a plugin does, each of the calls ends within a bounded time.
type Plugins interface {
	// Begin opens a step of an operation. While a step is open no plugin joins, so that a newcomer either is told
	// of the step or finds what came of it in the records. A step must not wait for another operation.
	Begin() PluginStep
}

// PluginStep is what plugins see at once.
type PluginStep interface {
	// Listening says whether there is a plugin. Without one the calls below do nothing.
	Listening() bool
	// Tell tells of an event. What a plugin was told to be stopped or removed, or never heard of, it is not told
	// again. In SandboxUpdates the limits of the sandbox are the wanted ones.
	Tell(context.Context, PluginEvent, Sandbox, Container) error
	// Adjust lets plugins change the configuration of a container that is being made.
	Adjust(context.Context, Sandbox, Container, *specs.Spec) error
	// Update lets plugins change an update. Zero fields of the change stay as they are.
	Update(ctx context.Context, s Sandbox, c Container, change Resources) (Resources, error)
	// End closes the step. What plugins have asked for other containers is done afterwards; the channel is closed
	// when that has ended, or was given up.
	End() <-chan struct{}
}

// noStep is the step of a Manager without plugins.
type noStep struct{}

var settled = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (noStep) Listening() bool                                               { return false }
func (noStep) Tell(context.Context, PluginEvent, Sandbox, Container) error   { return nil }
func (noStep) Adjust(context.Context, Sandbox, Container, *specs.Spec) error { return nil }
func (noStep) End() <-chan struct{}                                          { return settled }

func (noStep) Update(_ context.Context, _ Sandbox, _ Container, change Resources) (Resources, error) {
	return change, nil
}

func (m *Manager) begin() PluginStep {
	if m.Plugins == nil {
		return noStep{}
	}
	return m.Plugins.Begin()
}

// ask tells of an event before the fact, in a step of its own. An error is a plugin's refusal.
func (m *Manager) ask(ctx context.Context, e PluginEvent, s Sandbox, c Container) error {
	step := m.begin()
	defer step.End()
	return step.Tell(ctx, e, s, c)
}

// tell tells of a fact, in a step of its own: there is nothing to refuse.
func (m *Manager) tell(ctx context.Context, e PluginEvent, s Sandbox, c Container) {
	step := m.begin()
	defer step.End()
	m.tellIn(ctx, step, e, s, c)
}

func (m *Manager) tellIn(ctx context.Context, step PluginStep, e PluginEvent, s Sandbox, c Container) {
	if err := step.Tell(ctx, e, s, c); err != nil {
		m.Logger.Warn("tell the plugins", "event", e, "pod", s.ID, "container", c.ID, "err", err)
	}
}

// tellContainer is tell for a container whose sandbox may be gone.
func (m *Manager) tellContainer(ctx context.Context, e PluginEvent, c Container) {
	s, ok := m.table.sandbox(c.SandboxID)
	if !ok {
		s.ID = c.SandboxID
	}
	m.tell(ctx, e, s, c)
}

// tellStopped tells that a container has ended. It waits for the operation on it, so that the events of one
// container keep their order.
func (m *Manager) tellStopped(ctx context.Context, id ID) {
	if m.Plugins == nil {
		return
	}
	unlock, err := m.locks.lock(ctx, id)
	if err != nil {
		return // the process ends; plugins find the rest when they join again
	}
	defer unlock()
	if c, ok := m.table.container(id); ok && c.State == Exited {
		m.tellContainer(ctx, ContainerStopped, c)
	}
}

// adjust lets plugins change a container whose bundle is complete, and publishes it as Created. Nobody sees the
// container before the plugins have; none of them joins in between.
func (m *Manager) adjust(ctx context.Context, s Sandbox, c Container, effective Effective, cgroup string) error {
	step := m.begin()
	err := m.adjustIn(ctx, step, s, c, effective, cgroup)
	select {
	case <-step.End(): // plugins make room for a container before it starts
	case <-ctx.Done():
	}
	return err
}

func (m *Manager) adjustIn(ctx context.Context, step PluginStep, s Sandbox, c Container, effective Effective, cgroup string) (err error) {
	if step.Listening() {
		c.Effective, c.CgroupPath = effective, cgroup
		effective, cgroup, err = m.Bundles.Adjust(ctx, c, func(spec *specs.Spec) error { return step.Adjust(ctx, s, c, spec) })
		if err != nil {
			return fmt.Errorf("adjust container %s: %w", c.ID, err)
		}
	}
	if _, err = m.readySandbox(s.ID); err != nil { // it may have been stopped meanwhile
		return err
	}
	c, err = m.table.changeContainer(c.ID, func(c *Container) {
		c.State, c.Effective, c.CgroupPath = Created, effective, cgroup
	})
	if err == nil {
		m.tellIn(ctx, step, ContainerCreated, s, c)
	}
	return err
}

// askUpdate lets plugins change an update.
func (m *Manager) askUpdate(ctx context.Context, id ID, change Resources) (Resources, error) {
	c, err := m.updatableContainer(id)
	if err != nil {
		return change, err
	}
	s, ok := m.table.sandbox(c.SandboxID)
	if !ok {
		return change, fmt.Errorf("sandbox %s: %w", c.SandboxID, errdefs.ErrNotFound)
	}
	step := m.begin()
	change, err = step.Update(ctx, s, c, change)
	select {
	case <-step.End():
	case <-ctx.Done():
	}
	if err != nil {
		return change, fmt.Errorf("update container %s: %w", id, err)
	}
	return change, nil
}

// UpdateForPlugin is UpdateContainer for a change that comes from the plugins, which are not asked again. A
// container that is not there any more needs none.
func (m *Manager) UpdateForPlugin(ctx context.Context, id ID, change Resources) error {
	c, err := m.Container(string(id))
	if err != nil {
		return ignoreNotFound(err)
	}
	_, err = m.ops.do(ctx, fmt.Sprintf("update container %s for a plugin to %+v", c.ID, change), updateLimit,
		func(ctx context.Context, op *operation) (ID, error) {
			return c.ID, m.updateLocked(ctx, op, c.ID, change)
		})
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}
