package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// seen is what the outside says about one record.
type seen struct {
	bootID string   // of this boot
	proc   *Process // nil: the runtime does not know it
	netns  string   // of a sandbox; "": none is pinned
	files  bool     // those that a sandbox's containers share are there
}

// verdict is what recovery does with a record.
type verdict string

const (
	keep         verdict = "keep"
	teardown     verdict = "teardown"     // half made, or half removed: undo and forget
	markNotReady verdict = "markNotReady" // sandbox
	markRunning  verdict = "markRunning"
	markExited   verdict = "markExited"  // the runtime knows how it ended
	markLost     verdict = "markLost"    // nobody knows how it ended
	markCreated  verdict = "markCreated" // the start did not come about
)

// decideSandbox is pure: the same record and the same sight give the same verdict.
func decideSandbox(s Sandbox, now seen) verdict {
	switch {
	case s.State == Creating || s.State == Removing:
		return teardown
	case s.State == NotReady:
		return keep
	case s.BootID != now.bootID:
		return markNotReady
	case s.SharesPID() && (now.proc == nil || now.proc.Exit != nil):
		return markNotReady
	case !s.HostNetwork() && now.netns == "", !now.files:
		return markNotReady // stopped, which could not be written, or somebody has removed them
	}
	return keep
}

// decideContainer is pure: the same record and the same sight give the same verdict.
func decideContainer(c Container, now seen) verdict {
	switch {
	case c.State == Creating || c.State == Removing:
		return teardown
	case c.State == Exited:
		return keep
	case c.BootID != now.bootID:
		return markLost // the root file system was unmounted by the reboot, even of one never started
	case now.proc != nil && now.proc.Exit != nil:
		return markExited
	case now.proc != nil && c.State == Running:
		return keep
	case now.proc != nil:
		return markRunning
	case c.State == Running:
		return markLost
	case c.State == Starting:
		return markCreated
	}
	return keep
}

// recover reads the records and makes them agree with what runs. One bad record, or one that cannot
// be cleaned up, never ends the start. Tearing down goes on in the background.
func (m *Manager) recover(ctx context.Context) error {
	sandboxes, containers, bad, err := m.Store.Load()
	if err != nil {
		return fmt.Errorf("load records: %w", err)
	}
	for _, b := range bad {
		m.Logger.Error("a record was set aside", "err", b)
	}
	byID, err := m.whatRuns(ctx)
	if err != nil {
		return err
	}
	late := m.awaitStarts(ctx, containers, byID)
	if byID, err = m.whatRuns(ctx); err != nil {
		return err
	}
	m.table.publish(func(v *view) {
		for _, s := range sandboxes {
			v.sandboxes[s.ID] = s
		}
		for _, c := range containers {
			v.containers[c.ID] = c
		}
	})
	for _, c := range containers {
		if late[c.ID] {
			m.ops.background(func(ctx context.Context) { m.recoverLate(ctx, c.ID) })
			continue
		}
		m.recoverContainer(c, seen{bootID: m.BootID, proc: byID[c.ID]})
	}
	for _, s := range sandboxes {
		m.recoverSandbox(s, seen{m.BootID, byID[s.ID], m.Pinner.NetNS(s.ID), m.Bundles.Prepared(s.ID)})
	}
	m.Logger.Info("recovered", "pods", len(sandboxes), "containers", len(containers), "bad", len(bad))
	return nil
}

// whatRuns is what the runtime knows, by id.
func (m *Manager) whatRuns(ctx context.Context) (map[ID]*Process, error) {
	procs, err := m.Runtime.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list running containers: %w", err)
	}
	byID := make(map[ID]*Process, len(procs))
	for i := range procs {
		byID[procs[i].ID] = &procs[i]
	}
	return byID, nil
}

// awaitStarts waits a while for starts that the runtime goes on with although their cri-shim was killed, and returns
// those that still have not ended. A container that was shown as Created meanwhile would be started anew, by a kubelet
// as a second one beside it.
func (m *Manager) awaitStarts(ctx context.Context, containers []Container, runs map[ID]*Process) map[ID]bool {
	const patience = 20 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	late := map[ID]bool{}
	for _, c := range containers {
		if c.State != Starting || c.BootID != m.BootID || runs[c.ID] != nil {
			continue
		}
		wg.Go(func() {
			if m.awaitStart(ctx, c.ID) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			late[c.ID] = true
		})
	}
	wg.Wait()
	return late
}

// awaitStart returns once no start of a container is under way; false when ctx ended before.
func (m *Manager) awaitStart(ctx context.Context, id ID) bool {
	// The runtime answers what concerns a container when its start has ended; this does no harm to any.
	err := m.Runtime.ReopenLog(ctx, id)
	return err == nil || ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded)
}

// recoverLate is recoverContainer for a container whose start takes long.
func (m *Manager) recoverLate(ctx context.Context, id ID) {
	m.Logger.Warn("a container is still being started", "container", id)
	if !m.awaitStart(ctx, id) {
		return // the process ends, and the next one asks again
	}
	runs, err := m.whatRuns(ctx)
	if err != nil {
		m.Logger.Warn("recover container", "container", id, "err", err)
		return
	}
	if c, ok := m.table.container(id); ok && c.State == Starting {
		m.recoverContainer(c, seen{bootID: m.BootID, proc: runs[id]})
	}
}

func (m *Manager) recoverContainer(c Container, now seen) {
	v := decideContainer(c, now)
	log := m.Logger.With("container", c.ID, "pod", c.SandboxID, "state", c.State, "verdict", v)
	if v == teardown {
		log.Info("recover container")
		m.ops.background(func(ctx context.Context) {
			if err := m.removeContainer(ctx, c.ID); err != nil {
				log.Warn("clean up after a crash", "err", err)
			}
		})
		return
	}
	if err := m.holdImages(c); err != nil {
		log.Warn("hold the images of a container", "err", err)
	}
	if c.State != Created && c.State != Starting {
		m.cleanCheckpoint(c)
	}
	if c.Updating != nil {
		m.ops.background(func(ctx context.Context) { m.finishUpdate(ctx, c.ID) })
	}
	if v != keep {
		log.Info("recover container")
		var err error
		if c, err = m.table.changeContainer(c.ID, func(c *Container) { c.apply(v, now, m.Now) }); err != nil {
			log.Warn("recover container", "err", err)
		}
	}
	if c.State == Exited {
		m.ops.background(func(ctx context.Context) { m.unmountEnded(ctx, c.ID) })
	}
}

func (m *Manager) recoverSandbox(s Sandbox, now seen) {
	v := decideSandbox(s, now)
	log := m.Logger.With("pod", s.ID, "state", s.State, "verdict", v)
	switch v {
	case markNotReady:
		log.Info("recover sandbox")
		if _, err := m.table.changeSandbox(s.ID, func(s *Sandbox) { s.State = NotReady }); err != nil {
			log.Warn("recover sandbox", "err", err)
		}
	case teardown:
		log.Info("recover sandbox")
		m.ops.background(func(ctx context.Context) {
			if err := m.forgetSandbox(ctx, s.ID); err != nil {
				log.Warn("clean up after a crash", "err", err)
			}
		})
	}
}

// apply carries out a verdict on the record.
func (c *Container) apply(v verdict, now seen, clock func() time.Time) {
	switch v {
	case markRunning:
		c.started(*now.proc, clock())
	case markExited:
		c.started(*now.proc, clock())
		if c.State != Exited {
			c.exit(*now.proc.Exit)
		}
	case markLost:
		c.exit(Exit{Code: 255, Lost: true, FinishedAt: clock()})
		if c.BootID != now.bootID {
			c.Reason = "Unknown"
			c.Message = "the node was rebooted"
		}
	case markCreated:
		c.State = Created
	}
}
