package criserver

import (
	"context"
	"fmt"
	"path"
	"slices"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// CheckpointContainer writes a running container into an archive. It runs on.
func (s *runtimeService) CheckpointContainer(ctx context.Context, r *runtime.CheckpointContainerRequest) (*runtime.CheckpointContainerResponse, error) {
	var f faults
	f.id("container_id", r.GetContainerId())
	f.absolute("location", r.GetLocation())
	f.within("timeout", r.GetTimeout(), 0, 1<<31-1)
	if err := f.err(); err != nil {
		return nil, err
	}
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if t := r.GetTimeout(); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, seconds(t))
		defer cancel()
	}
	if err := s.Checkpoints.CheckpointContainer(ctx, string(c.ID), path.Clean(r.GetLocation())); err != nil {
		return nil, err
	}
	return &runtime.CheckpointContainerResponse{}, nil
}

// CheckpointPod writes the running containers of a sandbox, all as of one moment, into a directory.
func (s *runtimeService) CheckpointPod(ctx context.Context, r *runtime.CheckpointPodRequest) (*runtime.CheckpointPodResponse, error) {
	var f faults
	f.id("pod_sandbox_id", r.GetPodSandboxId())
	f.absolute("output_path", r.GetOutputPath())
	f.noOptions(r.GetOptions())
	if len(r.GetContainerIds()) == 0 {
		f.missing("container_ids")
	}
	var containers []pod.ID
	for i, id := range r.GetContainerIds() {
		if !plausible(id) || slices.Contains(containers, pod.ID(id)) {
			f.bad(fmt.Sprintf("container_ids[%d]", i), id, "ids of containers, each id once")
		}
		containers = append(containers, pod.ID(id))
	}
	f.deadline(ctx)
	if err := f.err(); err != nil {
		return nil, err
	}
	sb, err := s.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := s.Checkpoints.CheckpointPod(ctx, string(sb.ID), containers, path.Clean(r.GetOutputPath())); err != nil {
		return nil, err
	}
	return &runtime.CheckpointPodResponse{}, nil
}

// RestorePod makes a sandbox, and containers that go on when they are started, from what CheckpointPod wrote.
func (s *runtimeService) RestorePod(ctx context.Context, r *runtime.RestorePodRequest) (*runtime.RestorePodResponse, error) {
	var f faults
	f.absolute("checkpoint_path", r.GetCheckpointPath())
	f.noOptions(r.GetOptions())
	f.deadline(ctx)
	cfg := sandboxIn(&f, r.GetConfig(), r.GetRuntimeHandler(), s.SystemdCgroup)
	s.checkHandler(&f, r.GetRuntimeHandler())
	if cfg.Namespaces.User != nil {
		f.bad(securityField+".namespace_options.userns_options.mode", "POD", "NODE: no checkpoint has a user namespace")
	}
	containers, err := s.restoredIn(&f, r.GetContainerConfigs(), cfg)
	if err != nil {
		return nil, err
	}
	id, restored, err := s.Checkpoints.RestorePod(ctx, path.Clean(r.GetCheckpointPath()), cfg, containers)
	if err != nil {
		return nil, err
	}
	resp := &runtime.RestorePodResponse{PodSandboxId: string(id)}
	for _, c := range restored {
		resp.RestoredContainers = append(resp.RestoredContainers, &runtime.RestoredContainer{Name: c.Name, ContainerId: string(c.ID)})
	}
	return resp, nil
}

// restoredIn checks the containers as CreateContainer does, against a sandbox that is not there yet.
func (s *runtimeService) restoredIn(f *faults, configs []*runtime.ContainerConfig, sandbox pod.SandboxConfig) ([]pod.ContainerConfig, error) {
	if len(configs) == 0 {
		f.missing("container_configs")
	}
	var out []pod.ContainerConfig
	seen := map[string]bool{}
	for i, c := range configs {
		var one faults
		cfg := containerIn(&one, c)
		insideIn(&one, &cfg, pod.Sandbox{Config: sandbox})
		for _, fault := range one.invalid {
			f.invalid = append(f.invalid, fmt.Sprintf("container_configs[%d]: %s", i, fault))
		}
		f.lacking = append(f.lacking, one.lacking...)
		name := c.GetMetadata().GetName()
		if seen[name] {
			f.bad(fmt.Sprintf("container_configs[%d].metadata.name", i), name, "each name once")
		}
		seen[name] = true
		out = append(out, cfg)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	for _, c := range out {
		if err := s.checkMounts(f, c.Mounts, sandbox.Handler); err != nil {
			return nil, err
		}
	}
	return out, f.err()
}

// deadline: what is called is frozen or half made meanwhile, and the CRI wants the caller to say for how long.
func (f *faults) deadline(ctx context.Context) {
	if _, ok := ctx.Deadline(); !ok {
		f.invalid = append(f.invalid, "the call has no deadline: want one, because the pod is frozen or half made meanwhile")
	}
}

// noOptions refuses what nobody documented, as the CRI wants it.
func (f *faults) noOptions(options map[string]string) {
	for key := range options {
		f.bad("options", key, "no options: there are none for this handler")
	}
}
