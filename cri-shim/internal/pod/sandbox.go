package pod

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
)

// key names the sandbox a caller means, over all its retries.
func (c SandboxConfig) key() string {
	return fmt.Sprintf("%s/%s/%s/%d", c.Namespace, c.Name, c.UID, c.Attempt)
}

// RunSandbox makes a sandbox and returns its id once it is Ready. A repeated call joins the one in
// flight, or returns the id of the sandbox that is Ready already. When ctx ends first the work goes
// on, and the error says at which stage it is. A sandbox that cannot be made leaves nothing behind,
// or stays listed as NotReady until RemoveSandbox could clean it up.
func (m *Manager) RunSandbox(ctx context.Context, cfg SandboxConfig) (ID, error) {
	return m.ops.do(ctx, "run sandbox "+cfg.key(), createLimit, func(ctx context.Context, op *operation) (ID, error) {
		for _, s := range m.table.view.Load().sandboxes {
			if s.State == Ready && s.Config.key() == cfg.key() {
				return s.ID, nil
			}
		}
		return m.runSandbox(ctx, op, cfg)
	})
}

func (m *Manager) runSandbox(ctx context.Context, op *operation, cfg SandboxConfig) (ID, error) {
	s := Sandbox{ID: newID(), Config: cfg, State: Creating, CreatedAt: m.Now(), BootID: m.BootID, Overhead: cfg.Overhead, Resources: cfg.Resources}
	s.Attached = !s.HostNetwork()
	op.at("writing the record")
	if err := m.table.addSandbox(s); err != nil {
		return "", err
	}
	// Crash from here on: recovery sees Creating and tears the sandbox down by its id.
	made, err := m.makeSandbox(ctx, op, s)
	if err == nil {
		op.at("asking the plugins")
		s, err = m.publishSandbox(ctx, made)
	}
	if err != nil {
		op.at("cleaning up after: " + err.Error())
		return "", errors.Join(err, m.abandonSandbox(ctx, s.ID))
	}
	m.Logger.Info("sandbox ready", "pod", s.ID, "namespace", cfg.Namespace, "name", cfg.Name, "ips", s.Network.IPs)
	return s.ID, nil
}

// publishSandbox asks the plugins and makes the sandbox Ready, in one step: nobody sees it before they have.
func (m *Manager) publishSandbox(ctx context.Context, made Sandbox) (Sandbox, error) {
	step := m.begin()
	defer step.End()
	if err := step.Tell(ctx, SandboxRuns, made, Container{}); err != nil {
		return made, fmt.Errorf("run sandbox %s: %w", made.ID, err)
	}
	return m.table.changeSandbox(made.ID, func(s *Sandbox) {
		s.State, s.Network, s.InitPID = Ready, made.Network, made.InitPID
	})
}

// makeSandbox does the work of RunSandbox between the intent and the fact.
func (m *Manager) makeSandbox(ctx context.Context, op *operation, s Sandbox) (Sandbox, error) {
	op.at("making its namespaces")
	if err := m.Pinner.Pin(ctx, s); err != nil {
		return s, fmt.Errorf("make namespaces: %w", err)
	}
	op.at("attaching its network and preparing its files")
	var (
		g       errgroup.Group
		network NetworkResult
		initPID int
	)
	g.Go(func() (err error) { network, err = m.attach(ctx, s); return err })
	g.Go(func() (err error) { initPID, err = m.prepareSandbox(ctx, s); return err })
	err := g.Wait()
	s.Network, s.InitPID = network, initPID
	return s, err
}

func (m *Manager) attach(ctx context.Context, s Sandbox) (NetworkResult, error) {
	if !s.Attached {
		return NetworkResult{}, nil
	}
	res, err := m.Network.Attach(ctx, m.attachment(s))
	if err != nil {
		return res, fmt.Errorf("attach network: %w", err)
	}
	return res, nil
}

func (m *Manager) prepareSandbox(ctx context.Context, s Sandbox) (initPID int, err error) {
	if err := m.Bundles.PrepareSandbox(ctx, s); err != nil {
		return 0, fmt.Errorf("prepare sandbox: %w", err)
	}
	if !s.SharesPID() {
		return 0, nil
	}
	return m.startInit(ctx, s)
}

// startInit runs the process that holds a shared PID namespace, and pins that namespace.
func (m *Manager) startInit(ctx context.Context, s Sandbox) (int, error) {
	if err := m.Bundles.PrepareInit(ctx, s); err != nil {
		return 0, fmt.Errorf("prepare init: %w", err)
	}
	p, err := m.Runtime.Start(ctx, StartSpec{
		ID: s.ID, SandboxID: s.ID, Bundle: m.Layout.Bundle(string(s.ID)), Handler: s.Config.Handler,
	})
	if err != nil {
		return 0, fmt.Errorf("start init: %w", err)
	}
	if err := m.Pinner.PinPID(s.ID, p.PID); err != nil {
		return 0, fmt.Errorf("pin PID namespace: %w", err)
	}
	return p.PID, nil
}

// abandonSandbox undoes a RunSandbox that did not succeed. What cannot be undone now stays listed as
// NotReady, so that the caller's clean-up finds it.
func (m *Manager) abandonSandbox(ctx context.Context, id ID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
	defer cancel()
	err := m.teardownSandbox(ctx, id)
	if err == nil {
		return m.dropSandbox(ctx, id)
	}
	_, moveErr := m.table.changeSandbox(id, func(s *Sandbox) { s.State = NotReady })
	return errors.Join(fmt.Errorf("clean up: %w", err), moveErr)
}

// StopSandbox ends the containers of a sandbox and gives back its network and namespaces. It may be
// repeated; a sandbox that is not there is success.
func (m *Manager) StopSandbox(ctx context.Context, ref string) error {
	s, err := m.Sandbox(ref)
	if err != nil {
		return ignoreNotFound(err)
	}
	_, err = m.ops.do(ctx, "stop sandbox "+string(s.ID), teardownLimit, func(ctx context.Context, op *operation) (ID, error) {
		return s.ID, m.stopSandbox(ctx, op, s.ID)
	})
	return ignoreNotFound(err)
}

func (m *Manager) stopSandbox(ctx context.Context, op *operation, id ID) error {
	// NotReady comes first: from here on no container starts in it.
	_, err := m.table.changeSandbox(id, func(s *Sandbox) {
		if s.State == Ready {
			s.State = NotReady
		}
	})
	if err != nil {
		return err
	}
	op.at("ending its containers")
	if err := m.killContainers(ctx, id); err != nil {
		return err
	}
	op.at("telling the plugins")
	if s, ok := m.table.sandbox(id); ok {
		m.tell(ctx, SandboxStopped, s, Container{})
	}
	op.at("giving back its network and namespaces")
	return m.teardownSandbox(ctx, id)
}

// killContainers ends all containers of a sandbox; their records stay.
func (m *Manager) killContainers(ctx context.Context, sandbox ID) error {
	var g errgroup.Group
	for _, c := range m.table.containersOf(sandbox) {
		g.Go(func() error { return m.StopContainer(ctx, string(c.ID), 0) })
	}
	return g.Wait()
}

// RemoveSandbox stops a sandbox and forgets it and its containers. It may be repeated; a sandbox that
// is not there is success.
func (m *Manager) RemoveSandbox(ctx context.Context, ref string) error {
	s, err := m.Sandbox(ref)
	if err != nil {
		return ignoreNotFound(err)
	}
	return m.forgetSandbox(ctx, s.ID)
}

// forgetSandbox serves recovery too, which sees sandboxes that were never Ready.
func (m *Manager) forgetSandbox(ctx context.Context, id ID) error {
	_, err := m.ops.do(ctx, "remove sandbox "+string(id), teardownLimit, func(ctx context.Context, op *operation) (ID, error) {
		return id, m.removeSandbox(ctx, op, id)
	})
	return ignoreNotFound(err)
}

func (m *Manager) removeSandbox(ctx context.Context, op *operation, id ID) error {
	s, err := m.table.changeSandbox(id, func(s *Sandbox) { s.State = Removing })
	if err != nil {
		return err
	}
	// Crash from here on: recovery sees Removing and goes on.
	op.at("waiting for containers that are being made")
	if err := m.ops.settle(ctx, createKey(id, "")); err != nil {
		return err
	}
	op.at("removing its containers")
	var g errgroup.Group
	for _, c := range m.table.containersOf(id) {
		g.Go(func() error { return m.removeContainer(ctx, c.ID) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	op.at("giving back its network and namespaces")
	if err := m.teardownSandbox(ctx, s.ID); err != nil {
		return err
	}
	return m.dropSandbox(ctx, id)
}

// dropSandbox forgets a sandbox of which nothing is left.
func (m *Manager) dropSandbox(ctx context.Context, id ID) error {
	s, ok := m.table.sandbox(id)
	if err := m.table.dropSandbox(id); err != nil || !ok {
		return err
	}
	m.tell(ctx, SandboxRemoved, s, Container{})
	return nil
}

// teardownSandbox is the one way back: it serves a failed RunSandbox, StopSandbox, RemoveSandbox and
// recovery. Every step may be repeated and all are tried. The namespaces go after the network,
// because CNI DEL needs them; they stay when it failed.
func (m *Manager) teardownSandbox(ctx context.Context, id ID) error {
	s, ok := m.table.sandbox(id)
	if !ok {
		return fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	var faults []error
	if s.SharesPID() {
		if err := m.Runtime.Delete(ctx, id); err != nil {
			faults = append(faults, fmt.Errorf("end init: %w", err))
		}
	}
	if err := m.detach(ctx, s); err != nil {
		faults = append(faults, fmt.Errorf("detach network: %w", err))
	} else if err := m.Pinner.Unpin(id); err != nil {
		faults = append(faults, fmt.Errorf("unpin namespaces: %w", err))
	}
	if err := m.Bundles.RemoveSandbox(ctx, id); err != nil {
		faults = append(faults, fmt.Errorf("remove files: %w", err))
	}
	return errors.Join(faults...)
}

func (m *Manager) detach(ctx context.Context, s Sandbox) error {
	if !s.Attached {
		return nil
	}
	if err := m.Network.Detach(ctx, m.attachment(s)); err != nil {
		return err
	}
	_, err := m.table.changeSandbox(s.ID, func(s *Sandbox) { s.Attached = false })
	return err
}
