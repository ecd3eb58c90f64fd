package pod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/podwright/podwright/cri-shim/internal/paths"
)

// How long work may take once begun, whatever its callers' deadlines are.
const (
	createLimit   = 4 * time.Minute
	teardownLimit = 2 * time.Minute
	drainLimit    = 5 * time.Second
)

// Deps are the parts of a Manager; all but Plugins and Ended are needed.
type Deps struct {
	Store   Store
	Images  Images
	Network Network
	Pinner  Pinner
	Bundles Bundles
	Runtime Runtime
	// Checkpoints is what checkpoints are made with.
	Checkpoints Checkpoints
	Plugins     Plugins         // nil: there are none
	Ended       func(Container) // told of each container that has ended, must not wait; nil: nobody is
	Layout      paths.Layout
	BootID      string // of this boot; records of another boot have lost their processes
	Logger      *slog.Logger
	Now         func() time.Time
}

// Manager runs the operations on sandboxes and containers.
type Manager struct {
	Deps
	table *table
	ops   *operations
	locks *keyedLock // one operation per container; taken before any record is written

	cancel    context.CancelFunc // ends the operations in flight
	recovered chan struct{}
}

// New checks the parts and starts nothing.
func New(d Deps) (*Manager, error) {
	if d.Store == nil || d.Images == nil || d.Network == nil || d.Pinner == nil || d.Bundles == nil || d.Runtime == nil {
		return nil, fmt.Errorf("pod manager: a part is missing: %w", errdefs.ErrInvalidArgument)
	}
	if d.Checkpoints == nil {
		return nil, fmt.Errorf("pod manager: checkpoints are missing: %w", errdefs.ErrInvalidArgument)
	}
	if d.BootID == "" || d.Logger == nil || d.Now == nil {
		return nil, fmt.Errorf("pod manager: boot id, logger and clock are needed: %w", errdefs.ErrInvalidArgument)
	}
	base, cancel := context.WithCancel(context.Background())
	return &Manager{
		Deps: d, table: newTable(d), ops: newOperations(base), locks: newKeyedLock(),
		cancel: cancel, recovered: make(chan struct{}),
	}, nil
}

// Run recovers and then follows the exits until ctx ends. It returns when no work is left, or when
// what is left did not end in time: then recovery finishes it after the next start.
func (m *Manager) Run(ctx context.Context) error {
	defer m.cancel()
	if err := m.recover(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	close(m.recovered)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Runtime.Watch(gctx, m.onExit) })
	err := g.Wait()
	return errors.Join(ignoreCanceled(err), m.drain())
}

// Recovered is closed once the records were read and agree with what runs.
func (m *Manager) Recovered() <-chan struct{} { return m.recovered }

// drain lets short work finish, then cancels the rest and waits once more.
func (m *Manager) drain() error {
	done := make(chan struct{})
	go func() { m.ops.wg.Wait(); close(done) }()
	for range 2 {
		select {
		case <-done:
			return nil
		case <-time.After(drainLimit):
			m.cancel()
		}
	}
	return fmt.Errorf("operations did not end within %s: %w", 2*drainLimit, context.DeadlineExceeded)
}

// Sandbox returns the record whose id is ref, or begins with it and is the only one.
func (m *Manager) Sandbox(ref string) (Sandbox, error) {
	all := m.table.view.Load().sandboxes
	id, err := find(all, ref)
	if err != nil || !all[id].visible() {
		return Sandbox{}, fmt.Errorf("sandbox %.80q: %w", ref, errdefs.ErrNotFound)
	}
	return all[id], nil
}

// Sandboxes returns all sandboxes but those still being made. It never waits.
func (m *Manager) Sandboxes() []Sandbox {
	all := m.table.view.Load().sandboxes
	out := make([]Sandbox, 0, len(all))
	for _, s := range all {
		if s.visible() {
			out = append(out, s)
		}
	}
	return out
}

// Container returns the record whose id is ref, or begins with it and is the only one.
func (m *Manager) Container(ref string) (Container, error) {
	all := m.table.view.Load().containers
	id, err := find(all, ref)
	if err != nil || !all[id].visible() {
		return Container{}, fmt.Errorf("container %.80q: %w", ref, errdefs.ErrNotFound)
	}
	return all[id], nil
}

// Containers returns all containers but those still being made. It never waits.
func (m *Manager) Containers() []Container {
	all := m.table.view.Load().containers
	out := make([]Container, 0, len(all))
	for _, c := range all {
		if c.visible() {
			out = append(out, c)
		}
	}
	return out
}

// Attachments returns the places in the network that are in use or not yet given back, for CNI GC.
func (m *Manager) Attachments() []Attachment {
	var out []Attachment
	for _, s := range m.table.view.Load().sandboxes {
		if s.Attached {
			out = append(out, m.attachment(s))
		}
	}
	return out
}

// Attached returns the sandboxes that are Ready and have a place in the network.
func (m *Manager) Attached() []ID {
	var out []ID
	for _, s := range m.table.view.Load().sandboxes {
		if s.attachedNow() {
			out = append(out, s.ID)
		}
	}
	return out
}

// Attachment returns the place of one of them; false when it is none any more.
func (m *Manager) Attachment(id ID) (Attachment, bool) {
	s, ok := m.table.sandbox(id)
	if !ok || !s.attachedNow() {
		return Attachment{}, false
	}
	return m.attachment(s), true
}

func (s Sandbox) attachedNow() bool { return s.State == Ready && s.Attached }

func (s Sandbox) visible() bool   { return s.State != Creating }
func (c Container) visible() bool { return c.State != Creating }

func (m *Manager) attachment(s Sandbox) Attachment {
	return Attachment{
		ID: s.ID, Namespace: s.Config.Namespace, Name: s.Config.Name, UID: s.Config.UID,
		NetNS: m.Pinner.NetNS(s.ID), Ports: s.Config.Ports, DNS: s.Config.DNS,
		Annotations: s.Config.Annotations, CgroupParent: s.Config.CgroupParent,
	}
}

// onExit takes the end of a container, or of a sandbox's init, into the records.
func (m *Manager) onExit(id ID, e Exit) {
	if s, ok := m.table.sandbox(id); ok {
		m.onInitExit(s)
		return
	}
	c, ok := m.table.container(id)
	if !ok || (c.State != Running && c.State != Starting) {
		return
	}
	_, err := m.table.changeContainer(id, func(c *Container) {
		if c.State == Running || c.State == Starting {
			c.exit(e)
		}
	})
	if err != nil {
		return // removed meanwhile
	}
	m.ops.background(func(ctx context.Context) {
		m.tellStopped(ctx, id)
		m.unmountEnded(ctx, id)
	})
	m.Logger.Info("container ended", "container", id, "pod", c.SandboxID, "code", e.Code, "oom", e.OOMKilled)
}

// unmountEnded unmounts the root file system of a container that has ended: nothing runs in it again, while its record may
// stay for days, and a node should not have a mount for each job that is done. It waits for the operation on the container.
func (m *Manager) unmountEnded(ctx context.Context, id ID) {
	unlock, err := m.locks.lock(ctx, id)
	if err != nil {
		return // the process ends, and recovery does it
	}
	defer unlock()
	if c, ok := m.table.container(id); ok && c.State == Exited {
		m.unmount(ctx, c)
	}
}

// unmount serves those who hold the container's lock. What fails is tried again by recovery, and by the removal, which reports it.
func (m *Manager) unmount(ctx context.Context, c Container) {
	if err := m.Bundles.Unmount(ctx, c.ID); err != nil {
		m.Logger.Warn("unmount the root file system of a container that has ended", "container", c.ID, "pod", c.SandboxID, "err", err)
	}
}

// onInitExit: without its init the shared PID namespace is dead, and nothing can start in it.
func (m *Manager) onInitExit(s Sandbox) {
	if s.State != Ready {
		return
	}
	_, err := m.table.changeSandbox(s.ID, func(s *Sandbox) {
		if s.State == Ready {
			s.State = NotReady
		}
	})
	m.Logger.Warn("the init of a sandbox ended", "pod", s.ID, "err", err)
}

// exit moves the record to its end.
func (c *Container) exit(e Exit) {
	c.State, c.Exit = Exited, e
	if c.StartedAt.IsZero() {
		c.StartedAt = e.FinishedAt
	}
	switch {
	case e.Lost:
		c.Reason = "MonitorLost"
	case e.OOMKilled:
		c.Reason = "OOMKilled"
	case e.Code == 0:
		c.Reason = "Completed"
	default:
		c.Reason = "Error"
	}
}

func newID() ID {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return ID(hex.EncodeToString(b[:]))
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func ignoreNotFound(err error) error {
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}
