package criserver

import (
	"context"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// UpdateContainerResources changes the limits of a container. When it answers they hold; with an error nothing
// has changed. Fields that are zero or empty stay as they are.
func (s *runtimeService) UpdateContainerResources(ctx context.Context, r *runtime.UpdateContainerResourcesRequest) (*runtime.UpdateContainerResourcesResponse, error) {
	var f faults
	f.id("container_id", r.GetContainerId())
	change := resourcesIn(&f, "linux", r.GetLinux())
	if err := f.err(); err != nil {
		return nil, err
	}
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if r.GetLinux() == nil {
		return &runtime.UpdateContainerResourcesResponse{}, nil // windows only: nothing of ours
	}
	if err := s.Resources.UpdateContainer(ctx, string(c.ID), change); err != nil {
		return nil, err
	}
	return &runtime.UpdateContainerResourcesResponse{}, nil
}

// UpdatePodSandboxResources notes what a whole pod may use. The pod's cgroup is the kubelet's, which sets the
// limits there itself: a failure here would undo its resize for nothing.
func (s *runtimeService) UpdatePodSandboxResources(ctx context.Context, r *runtime.UpdatePodSandboxResourcesRequest) (*runtime.UpdatePodSandboxResourcesResponse, error) {
	var f faults
	f.id("pod_sandbox_id", r.GetPodSandboxId())
	overhead := optionalResources(&f, "overhead", r.GetOverhead())
	resources := optionalResources(&f, "resources", r.GetResources())
	if err := f.err(); err != nil {
		return nil, err
	}
	sb, err := s.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := s.Resources.UpdateSandbox(ctx, string(sb.ID), overhead, resources); err != nil {
		return nil, err
	}
	return &runtime.UpdatePodSandboxResourcesResponse{}, nil
}

func optionalResources(f *faults, field string, r *runtime.LinuxContainerResources) *pod.Resources {
	if r == nil {
		return nil
	}
	out := resourcesIn(f, field, r)
	return &out
}
