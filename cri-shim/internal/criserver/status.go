package criserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

const (
	runtimeName = "cri-shim"
	apiVersion  = "v1"
	// runtimesSound is a condition of our own, which a kubelet passes over and "crictl info" shows.
	runtimesSound = "OCIRuntimesHaveNoKnownFaults"
)

// Version answers the first question of every client.
func (s *runtimeService) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	return &runtime.VersionResponse{
		Version:           "0.1.0", // of the kubelet's API, the same for ever
		RuntimeName:       runtimeName,
		RuntimeVersion:    s.Deps.Version,
		RuntimeApiVersion: apiVersion,
	}, nil
}

// Status says whether containers can run and pods can be attached, and what the handlers can do.
func (s *runtimeService) Status(_ context.Context, r *runtime.StatusRequest) (*runtime.StatusResponse, error) {
	resp := &runtime.StatusResponse{
		Status: &runtime.RuntimeStatus{Conditions: []*runtime.RuntimeCondition{
			condition(runtime.RuntimeReady, "RuntimeNotReady", s.Healthy()),
			condition(runtime.NetworkReady, "NetworkPluginNotReady", s.Network.Ready()),
			condition(runtimesSound, "OldOCIRuntime", s.warnings()),
		}},
		Features: &runtime.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true,
			UserNamespacesHostNetwork: slices.ContainsFunc(s.Handlers, Handler.mapsHostNetwork)},
	}
	for _, h := range s.Handlers {
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &runtime.RuntimeHandler{
			Name: h.Name,
			Features: &runtime.RuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: h.RecursiveReadOnly,
				UserNamespaces:          h.UserNamespaces,
			},
		})
	}
	if r.GetVerbose() {
		resp.Info = map[string]string{"config": s.config}
	}
	return resp, nil
}

// warnings are those about the OCI runtimes.
func (s *runtimeService) warnings() error {
	var all []error
	for _, h := range s.Handlers {
		if h.Warning != "" {
			all = append(all, errors.New(h.Warning))
		}
	}
	return errors.Join(all...)
}

func condition(kind, reason string, err error) *runtime.RuntimeCondition {
	if err == nil {
		return &runtime.RuntimeCondition{Type: kind, Status: true}
	}
	return &runtime.RuntimeCondition{Type: kind, Reason: reason, Message: err.Error()}
}

// RuntimeConfig names the cgroup driver, so that the kubelet cannot use another one.
func (s *runtimeService) RuntimeConfig(context.Context, *runtime.RuntimeConfigRequest) (*runtime.RuntimeConfigResponse, error) {
	driver := runtime.CgroupDriver_CGROUPFS
	if s.SystemdCgroup {
		driver = runtime.CgroupDriver_SYSTEMD
	}
	return &runtime.RuntimeConfigResponse{Linux: &runtime.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdateRuntimeConfig takes the pod ranges of this node.
func (s *runtimeService) UpdateRuntimeConfig(_ context.Context, r *runtime.UpdateRuntimeConfigRequest) (*runtime.UpdateRuntimeConfigResponse, error) {
	cidrs := r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if cidrs == "" {
		return &runtime.UpdateRuntimeConfigResponse{}, nil
	}
	if err := s.Network.SetPodCIDR(cidrs); err != nil {
		return nil, fmt.Errorf("runtime_config.network_config.pod_cidr: %w", err)
	}
	return &runtime.UpdateRuntimeConfigResponse{}, nil
}

// checkMaps refuses ID-mapped mounts where the handler cannot make them; they are never left out.
func (s *runtimeService) checkMaps(f *faults, field, handler string) {
	for _, h := range s.Handlers {
		if h.Name == handler && !h.UserNamespaces {
			f.lacking = append(f.lacking, fmt.Sprintf("%s is not supported by runtime handler %q: %s", field, handler, h.LacksUserNamespaces))
		}
	}
}

// mapsHostNetwork says whether pods may have a user namespace and the host's network: they see the host's /sys, which
// is safe only when it is read-only with all that is mounted below.
func (h Handler) mapsHostNetwork() bool { return h.UserNamespaces && h.RecursiveReadOnly }

func (s *runtimeService) checkHostNetwork(f *faults, c pod.SandboxConfig) {
	for _, h := range s.Handlers {
		if c.Namespaces.Network == pod.ModeNode && h.Name == c.Handler && h.UserNamespaces && !h.mapsHostNetwork() {
			f.lacking = append(f.lacking, fmt.Sprintf("%s.namespace_options: network NODE with userns_options.mode POD is not supported by runtime handler %q: "+
				"it makes no recursive read-only mounts", securityField, c.Handler))
		}
	}
}

// checkMounts refuses mounts that the handler cannot make.
func (s *runtimeService) checkMounts(f *faults, mounts []pod.Mount, handler string) error {
	for i, m := range mounts {
		if len(m.UIDs) > 0 && m.Image == "" { // an image is mapped by us
			s.checkMaps(f, fmt.Sprintf("config.mounts[%d].uidMappings", i), handler)
		}
	}
	if err := f.err(); err != nil {
		return err
	}
	for i, m := range mounts {
		for _, h := range s.Handlers {
			if m.RecursiveReadonly && h.Name == handler && !h.RecursiveReadOnly {
				return fmt.Errorf("config.mounts[%d].recursive_read_only: runtime handler %q: %w", i, handler, errRRO)
			}
		}
	}
	return nil
}

func (s *runtimeService) checkHandler(f *faults, name string) {
	f.handler("runtime_handler", name, s.Handlers)
}

func (f *faults) handler(field, name string, all []Handler) {
	known := make([]string, len(all))
	for i, h := range all {
		known[i] = fmt.Sprintf("%q", h.Name)
	}
	if !slices.ContainsFunc(all, func(h Handler) bool { return h.Name == name }) {
		f.bad(field, name, "one of "+strings.Join(known, ", "))
	}
}
