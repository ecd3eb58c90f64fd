package criserver

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// errNoCheckpoints: the kubelet shows the text to whoever asked for a checkpoint. The class is Unimplemented
// and not FailedPrecondition: no change of the node, such as installing CRIU, would make it work.
func errNoCheckpoints(what string) error {
	return fmt.Errorf("%s: cri-shim does not make or restore checkpoints yet: %w", what, errdefs.ErrNotImplemented)
}

// CheckpointContainer is refused, after the request was checked.
func (s *runtimeService) CheckpointContainer(_ context.Context, r *runtime.CheckpointContainerRequest) (*runtime.CheckpointContainerResponse, error) {
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
	if c.State != pod.Running {
		return nil, fmt.Errorf("container %s is %s, not running: %w", c.ID, c.State, errdefs.ErrFailedPrecondition)
	}
	return nil, errNoCheckpoints("checkpoint container " + string(c.ID))
}

// CheckpointPod is refused, after the request was checked. Nothing is written to the directory.
func (s *runtimeService) CheckpointPod(ctx context.Context, r *runtime.CheckpointPodRequest) (*runtime.CheckpointPodResponse, error) {
	var f faults
	f.id("pod_sandbox_id", r.GetPodSandboxId())
	f.absolute("output_path", r.GetOutputPath())
	f.noOptions(r.GetOptions())
	if len(r.GetContainerIds()) == 0 {
		f.missing("container_ids")
	}
	ids := slices.Sorted(slices.Values(r.GetContainerIds()))
	if len(slices.Compact(slices.Clone(ids))) != len(ids) {
		f.bad("container_ids", fmt.Sprint(ids), "each id once")
	}
	if _, ok := ctx.Deadline(); !ok {
		f.invalid = append(f.invalid, "the call has no deadline: want one, because the pod is frozen meanwhile")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	sb, err := s.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	var running []string
	for _, c := range s.runningBySandbox()[sb.ID] {
		running = append(running, string(c.ID))
	}
	slices.Sort(running)
	if !slices.Equal(running, ids) {
		return nil, fmt.Errorf("container_ids %v: want exactly the running containers of sandbox %s, %v: %w", ids, sb.ID, running, errdefs.ErrFailedPrecondition)
	}
	return nil, errNoCheckpoints("checkpoint sandbox " + string(sb.ID))
}

// RestorePod is refused, after the request was checked.
func (s *runtimeService) RestorePod(_ context.Context, r *runtime.RestorePodRequest) (*runtime.RestorePodResponse, error) {
	var f faults
	f.absolute("checkpoint_path", r.GetCheckpointPath())
	f.noOptions(r.GetOptions())
	sandboxIn(&f, r.GetConfig(), r.GetRuntimeHandler(), s.SystemdCgroup)
	s.checkHandler(&f, r.GetRuntimeHandler())
	if len(r.GetContainerConfigs()) == 0 {
		f.missing("container_configs")
	}
	seen := map[string]bool{}
	for i, c := range r.GetContainerConfigs() {
		name := c.GetMetadata().GetName()
		f.name(fmt.Sprintf("container_configs[%d].metadata.name", i), name)
		if seen[name] {
			f.bad(fmt.Sprintf("container_configs[%d].metadata.name", i), name, "each name once")
		}
		seen[name] = true
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return nil, errNoCheckpoints("restore " + r.GetCheckpointPath())
}

// noOptions refuses what nobody documented, as the CRI wants it.
func (f *faults) noOptions(options map[string]string) {
	for key := range options {
		f.bad("options", key, "no options: there are none for this handler")
	}
}
