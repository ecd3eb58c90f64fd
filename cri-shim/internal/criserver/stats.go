package criserver

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// ContainerStats measures one container. Of one that does not run only the writable layer is known.
func (s *runtimeService) ContainerStats(_ context.Context, r *runtime.ContainerStatsRequest) (*runtime.ContainerStatsResponse, error) {
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c.State != pod.Running {
		return &runtime.ContainerStatsResponse{Stats: s.idleStatsOut(c)}, nil
	}
	u, err := s.Stats.Container(c)
	if err != nil {
		return nil, err
	}
	return &runtime.ContainerStatsResponse{Stats: s.containerStatsOut(c, u)}, nil
}

// ListContainerStats measures the running containers that pass the filter. One that vanishes meanwhile is left
// out.
func (s *runtimeService) ListContainerStats(_ context.Context, r *runtime.ListContainerStatsRequest) (*runtime.ListContainerStatsResponse, error) {
	resp := &runtime.ListContainerStatsResponse{}
	for _, c := range s.statsCandidates(r.GetFilter()) {
		if one := s.measured(c); one != nil {
			resp.Stats = append(resp.Stats, one)
		}
	}
	return resp, nil
}

// measured is nil for a container that vanished. Any other fault is logged: the rest of a list is worth more.
func (s *runtimeService) measured(c pod.Container) *runtime.ContainerStats {
	u, err := s.Stats.Container(c)
	if err != nil {
		if !errdefs.IsNotFound(err) {
			s.Logger.Warn("measure a container", "container", c.ID, "err", err)
		}
		return nil
	}
	return s.containerStatsOut(c, u)
}

func (s *runtimeService) statsCandidates(filter *runtime.ContainerStatsFilter) []pod.Container {
	candidates := s.View.Containers()
	if id := filter.GetId(); id != "" {
		candidates = nil
		if one, err := s.container(id); err == nil {
			candidates = []pod.Container{one}
		}
	}
	sandbox := filter.GetPodSandboxId()
	if sandbox != "" {
		if sb, err := s.sandbox(sandbox); err == nil {
			sandbox = string(sb.ID) // it was the beginning of an id
		}
	}
	var out []pod.Container
	for _, c := range candidates {
		if c.State == pod.Running && (sandbox == "" || string(c.SandboxID) == sandbox) && hasLabels(c.Config.Labels, filter.GetLabelSelector()) {
			out = append(out, c)
		}
	}
	return out
}

// PodSandboxStats measures one sandbox that is ready.
func (s *runtimeService) PodSandboxStats(_ context.Context, r *runtime.PodSandboxStatsRequest) (*runtime.PodSandboxStatsResponse, error) {
	sb, err := s.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if sb.State != pod.Ready {
		return nil, fmt.Errorf("sandbox %s is %s, not ready: it uses nothing: %w", sb.ID, sb.State, errdefs.ErrFailedPrecondition)
	}
	out, err := s.sandboxStats(sb, s.runningBySandbox())
	if err != nil {
		return nil, err
	}
	return &runtime.PodSandboxStatsResponse{Stats: out}, nil
}

// ListPodSandboxStats measures the ready sandboxes that pass the filter. One that vanishes meanwhile is left out.
func (s *runtimeService) ListPodSandboxStats(_ context.Context, r *runtime.ListPodSandboxStatsRequest) (*runtime.ListPodSandboxStatsResponse, error) {
	candidates := s.Sandboxes.Sandboxes()
	if id := r.GetFilter().GetId(); id != "" {
		candidates = nil
		if one, err := s.sandbox(id); err == nil {
			candidates = []pod.Sandbox{one}
		}
	}
	resp := &runtime.ListPodSandboxStatsResponse{}
	running := s.runningBySandbox()
	for _, sb := range candidates {
		if sb.State != pod.Ready || !hasLabels(sb.Config.Labels, r.GetFilter().GetLabelSelector()) {
			continue
		}
		out, err := s.sandboxStats(sb, running)
		if err != nil {
			if !errdefs.IsNotFound(err) {
				s.Logger.Warn("measure a sandbox", "pod", sb.ID, "err", err)
			}
			continue
		}
		resp.Stats = append(resp.Stats, out)
	}
	return resp, nil
}

func (s *runtimeService) runningBySandbox() map[pod.ID][]pod.Container {
	out := map[pod.ID][]pod.Container{}
	for _, c := range s.View.Containers() {
		if c.State == pod.Running {
			out[c.SandboxID] = append(out[c.SandboxID], c)
		}
	}
	return out
}

func (s *runtimeService) sandboxStats(sb pod.Sandbox, running map[pod.ID][]pod.Container) (*runtime.PodSandboxStats, error) {
	u, err := s.Stats.Sandbox(sb)
	if err != nil {
		return nil, err
	}
	out := sandboxStatsOut(sb, u)
	for _, c := range running[sb.ID] {
		if one := s.measured(c); one != nil {
			out.Linux.Containers = append(out.Linux.Containers, one)
		}
	}
	return out, nil
}
