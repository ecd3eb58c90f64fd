package nri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// entry is what plugins know of a sandbox or a container.
type entry struct {
	container *adaptation.Container // as its configuration describes it; nil for a sandbox
	stopped   bool                  // they were told
}

// step implements pod.PluginStep.
type step struct {
	p         *Plugins
	block     *adaptation.PluginSyncBlock
	listening bool
	wishes    wishes
}

// Begin implements pod.Plugins.
func (p *Plugins) Begin() pod.PluginStep {
	<-p.started
	if p.library == nil {
		return &step{p: p}
	}
	s := &step{p: p, block: p.library.BlockPluginSync()}
	// Exact from here on: a newcomer is counted while no step is open.
	if s.listening = p.count.Load() > 0; !s.listening {
		p.forgetAll()
	}
	return s
}

func (s *step) Listening() bool { return s.listening }

// End implements pod.PluginStep.
func (s *step) End() <-chan struct{} {
	s.block.Unblock()
	w := s.wishes
	s.wishes = wishes{}
	return s.p.carryOut(w)
}

// forgetAll: without plugins nobody knows anything.
func (p *Plugins) forgetAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.told)
}

// know notes that plugins know of an id.
func (p *Plugins) know(id pod.ID, c *adaptation.Container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told[id] = &entry{container: c}
}

// known returns a copy of what plugins know of a container.
func (p *Plugins) known(id pod.ID) (*adaptation.Container, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.told[id]
	if !ok || e.container == nil {
		return nil, ok
	}
	return proto.Clone(e.container).(*adaptation.Container), true
}

// stops says whether plugins are to be told that it has stopped: once, and only of what they know.
func (p *Plugins) stops(id pod.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.told[id]
	if e == nil || e.stopped {
		return false
	}
	e.stopped = true
	return true
}

// forget says whether plugins knew of it.
func (p *Plugins) forget(id pod.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.told[id]
	delete(p.told, id)
	return ok
}

// Tell implements pod.PluginStep.
func (s *step) Tell(ctx context.Context, e pod.PluginEvent, sb pod.Sandbox, c pod.Container) error {
	if !s.listening {
		return nil
	}
	err := s.tell(ctx, e, sb, c)
	if err != nil {
		return fmt.Errorf("NRI plugins: %w", err)
	}
	return nil
}

func (s *step) tell(ctx context.Context, e pod.PluginEvent, sb pod.Sandbox, c pod.Container) error {
	n, p := s.p.library, s.p
	switch e {
	case pod.SandboxRuns:
		p.know(sb.ID, nil)
		return n.RunPodSandbox(ctx, &adaptation.RunPodSandboxRequest{Pod: p.podOf(sb)})
	case pod.SandboxUpdates:
		return s.askSandbox(ctx, sb)
	case pod.SandboxUpdated:
		return n.PostUpdatePodSandbox(ctx, &adaptation.PostUpdatePodSandboxRequest{Pod: p.podOf(sb)})
	case pod.SandboxStopped:
		return s.sandboxStopped(ctx, sb)
	case pod.SandboxRemoved:
		stopped := s.sandboxStopped(ctx, sb)
		if stopped != nil || !p.forget(sb.ID) {
			return stopped
		}
		return n.RemovePodSandbox(ctx, &adaptation.RemovePodSandboxRequest{Pod: p.podOf(sb)})
	case pod.ContainerCreated:
		return n.PostCreateContainer(ctx, &adaptation.PostCreateContainerRequest{Pod: p.podOf(sb), Container: p.containerOf(c)})
	case pod.ContainerStarts:
		return n.StartContainer(ctx, &adaptation.StartContainerRequest{Pod: p.podOf(sb), Container: p.containerOf(c)})
	case pod.ContainerStarted:
		return n.PostStartContainer(ctx, &adaptation.PostStartContainerRequest{Pod: p.podOf(sb), Container: p.containerOf(c)})
	case pod.ContainerUpdated:
		p.refresh(c)
		return n.PostUpdateContainer(ctx, &adaptation.PostUpdateContainerRequest{Pod: p.podOf(sb), Container: p.containerOf(c)})
	case pod.ContainerStopped:
		return s.containerStopped(ctx, sb, c)
	case pod.ContainerRemoved:
		return s.containerRemoved(ctx, sb, c)
	}
	return fmt.Errorf("event %q: %w", e, errdefs.ErrNotImplemented)
}

// askSandbox: plugins see the sandbox as it is, and the limits that are wanted beside it.
func (s *step) askSandbox(ctx context.Context, wanted pod.Sandbox) error {
	now, err := s.p.runtime.Sandbox(string(wanted.ID))
	if err != nil {
		return err
	}
	_, err = s.p.library.UpdatePodSandbox(ctx, &adaptation.UpdatePodSandboxRequest{
		Pod: s.p.podOf(now), OverheadLinuxResources: resourcesOut(wanted.Overhead), LinuxResources: resourcesOut(wanted.Resources),
	})
	return err
}

func (s *step) sandboxStopped(ctx context.Context, sb pod.Sandbox) error {
	if !s.p.stops(sb.ID) {
		return nil
	}
	return s.p.library.StopPodSandbox(ctx, &adaptation.StopPodSandboxRequest{Pod: s.p.podOf(sb)})
}

func (s *step) containerStopped(ctx context.Context, sb pod.Sandbox, c pod.Container) error {
	if !s.p.stops(c.ID) {
		return nil
	}
	rsp, err := s.p.library.StopContainer(ctx, &adaptation.StopContainerRequest{Pod: s.p.podOf(sb), Container: s.p.containerOf(c)})
	s.wishes.updates = append(s.wishes.updates, rsp.GetUpdate()...)
	return err
}

func (s *step) containerRemoved(ctx context.Context, sb pod.Sandbox, c pod.Container) error {
	stopped := s.containerStopped(ctx, sb, c)
	container := s.p.containerOf(c)
	if !s.p.forget(c.ID) {
		return stopped
	}
	if err := s.p.library.RemoveContainer(ctx, &adaptation.RemoveContainerRequest{Pod: s.p.podOf(sb), Container: container}); err != nil {
		return err
	}
	return stopped
}

// Adjust implements pod.PluginStep.
func (s *step) Adjust(ctx context.Context, sb pod.Sandbox, c pod.Container, spec *specs.Spec) error {
	if !s.listening {
		return nil
	}
	described := describe(c, spec)
	s.p.know(c.ID, described)
	rsp, err := s.p.library.CreateContainer(ctx, &adaptation.CreateContainerRequest{
		Pod: s.p.podOf(sb), Container: proto.Clone(described).(*adaptation.Container),
	})
	if err != nil {
		return fmt.Errorf("NRI plugins: %w", err)
	}
	s.wishes.updates = append(s.wishes.updates, rsp.GetUpdate()...)
	s.wishes.evictions = append(s.wishes.evictions, rsp.GetEvict()...)
	if err := s.p.opt.Host.adjust(spec, rsp.GetAdjust()); err != nil {
		return fmt.Errorf("what NRI plugins ask for: %w", err)
	}
	s.p.know(c.ID, describe(c, spec))
	return nil
}

// Update implements pod.PluginStep.
func (s *step) Update(ctx context.Context, sb pod.Sandbox, c pod.Container, change pod.Resources) (pod.Resources, error) {
	if !s.listening {
		return change, nil
	}
	rsp, err := s.p.library.UpdateContainer(ctx, &adaptation.UpdateContainerRequest{
		Pod: s.p.podOf(sb), Container: s.p.containerOf(c), LinuxResources: resourcesOut(&change),
	})
	if err != nil {
		return change, fmt.Errorf("NRI plugins: %w", err)
	}
	s.wishes.evictions = append(s.wishes.evictions, rsp.GetEvict()...)
	for _, u := range rsp.GetUpdate() {
		if u.GetContainerId() != string(c.ID) {
			s.wishes.updates = append(s.wishes.updates, u)
			continue
		}
		asked, err := changeIn(u.GetLinux().GetResources())
		if err != nil {
			return change, fmt.Errorf("what NRI plugins ask for: %w", err)
		}
		asked.OOMScoreAdj = change.OOMScoreAdj // no part of the interface
		change = asked
	}
	return change, nil
}

// refresh reads a container's configuration anew.
func (p *Plugins) refresh(c pod.Container) {
	spec, err := p.opt.Host.Spec(c.ID)
	if err != nil {
		p.opt.Logger.Debug("read a configuration for the plugins", "container", c.ID, "err", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.told[c.ID]; e != nil {
		e.container = describe(c, spec)
	}
}
