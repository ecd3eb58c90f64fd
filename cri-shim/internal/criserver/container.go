package criserver

import (
	"context"
	"math"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// CreateContainer makes a container that can be started. The sandbox's configuration in the request
// is a copy of what RunPodSandbox was given; the one in the record counts.
func (s *runtimeService) CreateContainer(ctx context.Context, r *runtime.CreateContainerRequest) (*runtime.CreateContainerResponse, error) {
	var f faults
	f.id("pod_sandbox_id", r.GetPodSandboxId())
	cfg := containerIn(&f, r.GetConfig())
	if err := f.err(); err != nil {
		return nil, err
	}
	sb, err := s.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	insideIn(&f, &cfg, sb)
	if err := s.checkMounts(&f, cfg.Mounts, sb.Config.Handler); err != nil {
		return nil, err
	}
	id, err := s.Containers.CreateContainer(ctx, string(sb.ID), cfg)
	if err != nil {
		return nil, err
	}
	return &runtime.CreateContainerResponse{ContainerId: string(id)}, nil
}

// StartContainer runs a container's process.
func (s *runtimeService) StartContainer(ctx context.Context, r *runtime.StartContainerRequest) (*runtime.StartContainerResponse, error) {
	if err := lookup("container", "container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.Containers.StartContainer(ctx, r.GetContainerId()); err != nil {
		return nil, err
	}
	return &runtime.StartContainerResponse{}, nil
}

// StopContainer ends a container; a timeout of 0 or less kills it at once.
func (s *runtimeService) StopContainer(ctx context.Context, r *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
	err := gone(r.GetContainerId(), "container_id", func(id string) error {
		return s.Containers.StopContainer(ctx, id, seconds(r.GetTimeout()))
	})
	if err != nil {
		return nil, err
	}
	return &runtime.StopContainerResponse{}, nil
}

// RemoveContainer ends and forgets a container.
func (s *runtimeService) RemoveContainer(ctx context.Context, r *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse, error) {
	err := gone(r.GetContainerId(), "container_id", func(id string) error {
		return s.Containers.RemoveContainer(ctx, id)
	})
	if err != nil {
		return nil, err
	}
	return &runtime.RemoveContainerResponse{}, nil
}

// ListContainers shows the containers that pass the filter.
func (s *runtimeService) ListContainers(_ context.Context, r *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	filter := r.GetFilter()
	resp := &runtime.ListContainersResponse{}
	for _, c := range s.filtered(filter.GetId(), filter.GetPodSandboxId(), filter.GetLabelSelector()) {
		if filter.GetState() == nil || filter.GetState().GetState() == containerStateOut(c) {
			resp.Containers = append(resp.Containers, containerItemOut(c))
		}
	}
	return resp, nil
}

// filtered returns the containers that pass a filter, whose ids may be the beginning of one, and whose empty parts
// let all pass.
func (s *runtimeService) filtered(id, sandbox string, labels map[string]string) []pod.Container {
	candidates := s.View.Containers()
	if id != "" {
		candidates = nil
		if one, err := s.container(id); err == nil {
			candidates = []pod.Container{one}
		}
	}
	if sandbox != "" {
		if sb, err := s.sandbox(sandbox); err == nil {
			sandbox = string(sb.ID)
		}
	}
	var out []pod.Container
	for _, c := range candidates {
		if (sandbox == "" || string(c.SandboxID) == sandbox) && hasLabels(c.Config.Labels, labels) {
			out = append(out, c)
		}
	}
	return out
}

// ContainerStatus shows one container.
func (s *runtimeService) ContainerStatus(_ context.Context, r *runtime.ContainerStatusRequest) (*runtime.ContainerStatusResponse, error) {
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &runtime.ContainerStatusResponse{Status: containerStatusOut(c)}
	if r.GetVerbose() {
		resp.Info, err = containerInfo(c, s.Layout)
	}
	return resp, err
}

// ExecSync runs a command in a container and returns what it wrote. Its end by a timeout is
// DeadlineExceeded, and the process is gone by then.
func (s *runtimeService) ExecSync(ctx context.Context, r *runtime.ExecSyncRequest) (*runtime.ExecSyncResponse, error) {
	var f faults
	f.id("container_id", r.GetContainerId())
	if len(r.GetCmd()) == 0 {
		f.missing("cmd")
	}
	f.noNUL("cmd", r.GetCmd())
	f.within("timeout", r.GetTimeout(), 0, math.MaxInt64)
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := lookup("container", "container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	res, err := s.View.ExecSync(ctx, r.GetContainerId(), r.GetCmd(), seconds(r.GetTimeout()))
	if err != nil {
		return nil, err
	}
	resp := &runtime.ExecSyncResponse{ExitCode: res.ExitCode}
	resp.Stdout, resp.Stderr = fit(res.Stdout, res.Stderr)
	return resp, nil
}

// fit cuts output that would make the answer too large for its receiver, without a word, as its source does. Errors are
// the last to go.
func fit(stdout, stderr []byte) ([]byte, []byte) {
	const most = maxMessage - 4<<10
	stderr = stderr[:min(len(stderr), most)]
	return stdout[:min(len(stdout), most-len(stderr))], stderr
}

// ReopenContainerLog opens the log of a running container anew after it was renamed.
func (s *runtimeService) ReopenContainerLog(ctx context.Context, r *runtime.ReopenContainerLogRequest) (*runtime.ReopenContainerLogResponse, error) {
	if err := lookup("container", "container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.View.ReopenLog(ctx, r.GetContainerId()); err != nil {
		return nil, err
	}
	return &runtime.ReopenContainerLogResponse{}, nil
}

// container looks up an id or the beginning of one.
func (s *runtimeService) container(id string) (pod.Container, error) {
	if err := lookup("container", "container_id", id); err != nil {
		return pod.Container{}, err
	}
	return s.View.Container(id)
}

// seconds keeps absurd numbers from overflowing when something is added to them.
func seconds(n int64) time.Duration {
	const most = 10 * 365 * 24 * 3600
	return time.Duration(min(max(n, 0), most)) * time.Second
}
