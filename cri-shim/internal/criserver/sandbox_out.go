package criserver

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func sandboxStateOut(s pod.Sandbox) runtime.PodSandboxState {
	if s.State == pod.Ready {
		return runtime.PodSandboxState_SANDBOX_READY
	}
	return runtime.PodSandboxState_SANDBOX_NOTREADY
}

func sandboxMetadataOut(c pod.SandboxConfig) *runtime.PodSandboxMetadata {
	return &runtime.PodSandboxMetadata{Name: c.Name, Uid: c.UID, Namespace: c.Namespace, Attempt: c.Attempt}
}

func sandboxItemOut(s pod.Sandbox) *runtime.PodSandbox {
	return &runtime.PodSandbox{
		Id:             string(s.ID),
		Metadata:       sandboxMetadataOut(s.Config),
		State:          sandboxStateOut(s),
		CreatedAt:      s.CreatedAt.UnixNano(),
		Labels:         s.Config.Labels,
		Annotations:    s.Config.Annotations,
		RuntimeHandler: s.Config.Handler,
	}
}

func sandboxStatusOut(s pod.Sandbox) *runtime.PodSandboxStatus {
	return &runtime.PodSandboxStatus{
		Id:        string(s.ID),
		Metadata:  sandboxMetadataOut(s.Config),
		State:     sandboxStateOut(s),
		CreatedAt: s.CreatedAt.UnixNano(),
		Network:   networkOut(s),
		Linux: &runtime.LinuxPodSandboxStatus{
			Namespaces: &runtime.Namespace{Options: namespacesOut(s.Config.Namespaces)},
		},
		Labels:         s.Config.Labels,
		Annotations:    s.Config.Annotations,
		RuntimeHandler: s.Config.Handler,
	}
}

// networkOut has no address for a pod on the host's network: the kubelet knows the host's.
func networkOut(s pod.Sandbox) *runtime.PodSandboxNetworkStatus {
	out := &runtime.PodSandboxNetworkStatus{}
	if s.HostNetwork() {
		return out
	}
	for i, ip := range s.Network.IPs {
		if i == 0 {
			out.Ip = ip.String()
			continue
		}
		out.AdditionalIps = append(out.AdditionalIps, &runtime.PodIP{Ip: ip.String()})
	}
	return out
}

// sandboxInfo is for people and their tools: crictl inspectp shows it.
func (s *runtimeService) sandboxInfo(sb pod.Sandbox) (map[string]string, error) {
	l := s.Layout
	info := struct {
		PID           int               `json:"pid"` // of the init; 0 when there is none
		State         pod.State         `json:"state"`
		NetNS         string            `json:"netns,omitempty"`
		NamespacesDir string            `json:"namespacesDir"`
		SharedDir     string            `json:"sharedDir"`
		RecordDir     string            `json:"recordDir"`
		BootID        string            `json:"bootID"`
		CgroupParent  string            `json:"cgroupParent,omitempty"`
		Network       pod.NetworkResult `json:"network"`
		// NetworkCheck is null as long as no check was made.
		NetworkCheck *pod.NetworkCheck `json:"networkCheck"`
		// In the words of the CRI, as containerd prints them.
		Overhead  *runtime.ContainerResources `json:"overhead,omitempty"`
		Resources *runtime.ContainerResources `json:"resources,omitempty"`
	}{
		PID: sb.InitPID, State: sb.State, NamespacesDir: l.Namespaces(string(sb.ID)), SharedDir: l.Shared(string(sb.ID)),
		RecordDir: l.Pod(string(sb.ID)), BootID: sb.BootID, CgroupParent: sb.Config.CgroupParent, Network: sb.Network,
		Overhead: podResourcesOut(sb.Overhead), Resources: podResourcesOut(sb.Resources),
	}
	if !sb.HostNetwork() {
		info.NetNS = filepath.Join(info.NamespacesDir, "net")
		if c, ok := s.Network.Checked(sb.ID); ok {
			info.NetworkCheck = &c
		}
	}
	return infoOut(info)
}

func podResourcesOut(r *pod.Resources) *runtime.ContainerResources {
	if r == nil {
		return nil
	}
	return &runtime.ContainerResources{Linux: resourcesOut(*r)}
}

func infoOut(v any) (map[string]string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("print info: %w", err)
	}
	return map[string]string{"info": string(b)}, nil
}
