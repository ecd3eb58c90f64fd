package criserver

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// RunPodSandbox makes a sandbox that is ready, or leaves nothing behind.
func (s *runtimeService) RunPodSandbox(ctx context.Context, r *runtime.RunPodSandboxRequest) (*runtime.RunPodSandboxResponse, error) {
	var f faults
	cfg := sandboxIn(&f, r.GetConfig(), r.GetRuntimeHandler(), s.SystemdCgroup)
	s.checkHandler(&f, r.GetRuntimeHandler())
	if cfg.Namespaces.User != nil {
		s.checkMaps(&f, securityField+".namespace_options.userns_options.mode POD", cfg.Handler)
		s.checkHostNetwork(&f, cfg)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	id, err := s.Sandboxes.RunSandbox(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &runtime.RunPodSandboxResponse{PodSandboxId: string(id)}, nil
}

// StopPodSandbox ends what runs in a sandbox and gives back what it holds.
func (s *runtimeService) StopPodSandbox(ctx context.Context, r *runtime.StopPodSandboxRequest) (*runtime.StopPodSandboxResponse, error) {
	if err := s.end(ctx, r.GetPodSandboxId(), s.Sandboxes.StopSandbox); err != nil {
		return nil, err
	}
	return &runtime.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox forgets a sandbox and its containers.
func (s *runtimeService) RemovePodSandbox(ctx context.Context, r *runtime.RemovePodSandboxRequest) (*runtime.RemovePodSandboxResponse, error) {
	if err := s.end(ctx, r.GetPodSandboxId(), s.Sandboxes.RemoveSandbox); err != nil {
		return nil, err
	}
	return &runtime.RemovePodSandboxResponse{}, nil
}

func (s *runtimeService) end(ctx context.Context, id string, f func(context.Context, string) error) error {
	return gone(id, "pod_sandbox_id", func(id string) error { return f(ctx, id) })
}

// gone runs an operation for which an unknown id is success. A malformed id is an unknown one. No
// NotFound may leave it: the kubelet would take it for success.
func gone(id, field string, f func(id string) error) error {
	var check faults
	check.id(field, id)
	if err := check.err(); err != nil || !plausible(id) {
		return err
	}
	if err := f(id); err != nil {
		if errdefs.IsNotFound(err) {
			return fmt.Errorf("%v: %w", err, errdefs.ErrInternal) //nolint:errorlint // the caller must not see NotFound
		}
		return err
	}
	return nil
}

// PodSandboxStatus shows one sandbox.
func (s *runtimeService) PodSandboxStatus(_ context.Context, r *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	sb, err := s.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	resp := &runtime.PodSandboxStatusResponse{Status: sandboxStatusOut(sb)}
	if r.GetVerbose() {
		resp.Info, err = s.sandboxInfo(sb)
	}
	return resp, err
}

// ListPodSandbox shows the sandboxes that pass the filter.
func (s *runtimeService) ListPodSandbox(_ context.Context, r *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	filter := r.GetFilter()
	candidates := s.Sandboxes.Sandboxes()
	if id := filter.GetId(); id != "" {
		candidates = nil
		if one, err := s.sandbox(id); err == nil {
			candidates = []pod.Sandbox{one}
		}
	}
	resp := &runtime.ListPodSandboxResponse{}
	for _, sb := range candidates {
		if want := filter.GetState(); want != nil && want.GetState() != sandboxStateOut(sb) {
			continue
		}
		if hasLabels(sb.Config.Labels, filter.GetLabelSelector()) {
			resp.Items = append(resp.Items, sandboxItemOut(sb))
		}
	}
	return resp, nil
}

// sandbox looks up an id or the beginning of one.
func (s *runtimeService) sandbox(id string) (pod.Sandbox, error) {
	if err := lookup("sandbox", "pod_sandbox_id", id); err != nil {
		return pod.Sandbox{}, err
	}
	return s.Sandboxes.Sandbox(id)
}

func lookup(kind, field, id string) error {
	var f faults
	f.id(field, id)
	if err := f.err(); err != nil {
		return err
	}
	if !plausible(id) {
		return fmt.Errorf("%s %q: %w", kind, cut(id), errdefs.ErrNotFound)
	}
	return nil
}

// hasLabels says whether every pair of the selector is there.
func hasLabels(labels, selector map[string]string) bool {
	for k, want := range selector {
		if have, ok := labels[k]; !ok || have != want {
			return false
		}
	}
	return true
}
