package criserver

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/stats"
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

func (s *runtimeService) statsCandidates(f *runtime.ContainerStatsFilter) []pod.Container {
	all := s.filtered(f.GetId(), f.GetPodSandboxId(), f.GetLabelSelector())
	return slices.DeleteFunc(all, func(c pod.Container) bool { return c.State != pod.Running })
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
	out, err := s.sandboxStats(sb, s.surroundings())
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
	all := s.surroundings()
	for _, sb := range candidates {
		if sb.State != pod.Ready || !hasLabels(sb.Config.Labels, r.GetFilter().GetLabelSelector()) {
			continue
		}
		out, err := s.sandboxStats(sb, all)
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

// around is what has to be known of all pods to measure one.
type around struct {
	running map[pod.ID][]pod.Container // by sandbox
	parents map[string]int             // ready sandboxes by cgroup parent
}

func (s *runtimeService) surroundings() around {
	a := around{map[pod.ID][]pod.Container{}, map[string]int{}}
	for _, c := range s.View.Containers() {
		if c.State == pod.Running {
			a.running[c.SandboxID] = append(a.running[c.SandboxID], c)
		}
	}
	for _, sb := range s.Sandboxes.Sandboxes() {
		if sb.State == pod.Ready {
			a.parents[sb.Config.CgroupParent]++
		}
	}
	return a
}

// measure measures the sandbox itself.
func (a around) measure(by Stats, sb pod.Sandbox) (stats.Sandbox, error) {
	return by.Sandbox(sb, a.running[sb.ID], a.parents[sb.Config.CgroupParent] == 1)
}

func (s *runtimeService) sandboxStats(sb pod.Sandbox, all around) (*runtime.PodSandboxStats, error) {
	u, err := all.measure(s.Stats, sb)
	if err != nil {
		return nil, err
	}
	out := sandboxStatsOut(sb, u)
	for _, c := range all.running[sb.ID] {
		if one := s.measured(c); one != nil {
			out.Linux.Containers = append(out.Linux.Containers, one)
		}
	}
	return out, nil
}
