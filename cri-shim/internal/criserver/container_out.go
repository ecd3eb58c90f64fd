package criserver

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// containerStateOut shows a container that is being removed as what it was before.
func containerStateOut(c pod.Container) runtime.ContainerState {
	switch c.State {
	case pod.Creating, pod.Created, pod.Starting:
		return runtime.ContainerState_CONTAINER_CREATED
	case pod.Running:
		return runtime.ContainerState_CONTAINER_RUNNING
	case pod.Exited:
		return runtime.ContainerState_CONTAINER_EXITED
	case pod.Removing:
		switch {
		case !c.Exit.FinishedAt.IsZero():
			return runtime.ContainerState_CONTAINER_EXITED
		case c.StartedAt.IsZero():
			return runtime.ContainerState_CONTAINER_CREATED
		}
		return runtime.ContainerState_CONTAINER_RUNNING
	}
	return runtime.ContainerState_CONTAINER_UNKNOWN
}

func containerMetadataOut(c pod.ContainerConfig) *runtime.ContainerMetadata {
	return &runtime.ContainerMetadata{Name: c.Name, Attempt: c.Attempt}
}

// imageOut names the image for people: a kubelet asks by id, and tells what the pod's author wrote.
func imageOut(c pod.ContainerConfig) *runtime.ImageSpec {
	name := c.Image
	if c.UserSpecifiedImage != "" && isImageID(name) {
		name = c.UserSpecifiedImage
	}
	return &runtime.ImageSpec{Image: name, UserSpecifiedImage: c.UserSpecifiedImage}
}

func isImageID(ref string) bool {
	const digits = 64
	hex := strings.TrimPrefix(ref, "sha256:")
	return len(hex) == digits && plausible(hex)
}

func containerItemOut(c pod.Container) *runtime.Container {
	return &runtime.Container{
		Id:           string(c.ID),
		PodSandboxId: string(c.SandboxID),
		Metadata:     containerMetadataOut(c.Config),
		Image:        imageOut(c.Config),
		ImageRef:     c.ImageID,
		ImageId:      c.ImageID,
		State:        containerStateOut(c),
		CreatedAt:    c.CreatedAt.UnixNano(),
		Labels:       c.Config.Labels,
		Annotations:  c.Config.Annotations,
	}
}

func containerStatusOut(c pod.Container) *runtime.ContainerStatus {
	out := &runtime.ContainerStatus{
		Id:          string(c.ID),
		Metadata:    containerMetadataOut(c.Config),
		State:       containerStateOut(c),
		CreatedAt:   c.CreatedAt.UnixNano(),
		Image:       imageOut(c.Config),
		ImageRef:    c.ImageID,
		ImageId:     c.ImageID,
		Reason:      c.Reason,
		Message:     c.Message,
		Labels:      c.Config.Labels,
		Annotations: c.Config.Annotations,
		Mounts:      mountsOut(c.Config.Mounts),
		LogPath:     c.LogPath,
		Resources:   &runtime.ContainerResources{Linux: resourcesOut(c.Limits())},
		User:        userOut(c.Effective),
		StopSignal:  signalOut(c.Effective.StopSignal),
	}
	if out.State != runtime.ContainerState_CONTAINER_CREATED {
		out.StartedAt = nanos(c.StartedAt)
	}
	if out.State == runtime.ContainerState_CONTAINER_EXITED {
		out.FinishedAt, out.ExitCode = nanos(c.Exit.FinishedAt), c.Exit.Code
	}
	return out
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

var propagationOut = func() map[pod.Propagation]runtime.MountPropagation {
	out := make(map[pod.Propagation]runtime.MountPropagation, len(propagations))
	for k, v := range propagations {
		out[v] = k
	}
	return out
}()

func mountsOut(mounts []pod.Mount) []*runtime.Mount {
	out := make([]*runtime.Mount, 0, len(mounts))
	for _, m := range mounts {
		var image *runtime.ImageSpec
		if m.Image != "" {
			image = &runtime.ImageSpec{Image: m.Image}
		}
		out = append(out, &runtime.Mount{
			Image: image, ImageSubPath: m.SubPath,
			ContainerPath: m.ContainerPath, HostPath: m.HostPath,
			Readonly: m.Readonly, RecursiveReadOnly: m.RecursiveReadonly,
			SelinuxRelabel: m.SELinuxRelabel, Propagation: propagationOut[m.Propagation],
			UidMappings: mappingsOut(m.UIDs), GidMappings: mappingsOut(m.GIDs), MountOptions: m.Options,
		})
	}
	return out
}

func resourcesOut(r pod.Resources) *runtime.LinuxContainerResources {
	out := &runtime.LinuxContainerResources{
		CpuPeriod: r.CPUPeriod, CpuQuota: r.CPUQuota, CpuShares: r.CPUShares,
		MemoryLimitInBytes: r.MemoryLimit, MemorySwapLimitInBytes: r.MemorySwap,
		OomScoreAdj: r.OOMScoreAdj,
		CpusetCpus:  r.CpusetCPUs, CpusetMems: r.CpusetMems,
		Unified: r.Unified,
	}
	for _, size := range slices.Sorted(maps.Keys(r.HugepageCaps)) {
		out.HugepageLimits = append(out.HugepageLimits, &runtime.HugepageLimit{PageSize: size, Limit: r.HugepageCaps[size]})
	}
	return out
}

func userOut(e pod.Effective) *runtime.ContainerUser {
	user := &runtime.LinuxContainerUser{Uid: int64(e.UID), Gid: int64(e.GID)}
	for _, g := range e.Groups {
		user.SupplementalGroups = append(user.SupplementalGroups, int64(g))
	}
	return &runtime.ContainerUser{Linux: user}
}

// containerInfo is for people and their tools: crictl inspect shows it. The OCI configuration is
// left out when it cannot be read.
func containerInfo(c pod.Container, l paths.Layout) (map[string]string, error) {
	bundle := l.Bundle(string(c.ID))
	info := struct {
		SandboxID   pod.ID          `json:"sandboxID"`
		PID         int             `json:"pid"`
		State       pod.State       `json:"state"`
		Bundle      string          `json:"bundle"`
		RecordDir   string          `json:"recordDir"`
		CgroupPath  string          `json:"cgroupPath,omitempty"`
		BootID      string          `json:"bootID"`
		RuntimeSpec json.RawMessage `json:"runtimeSpec,omitempty"`
	}{
		SandboxID: c.SandboxID, PID: c.PID, State: c.State, Bundle: bundle,
		RecordDir: l.Container(string(c.SandboxID), string(c.ID)), CgroupPath: c.CgroupPath, BootID: c.BootID,
	}
	if spec, err := os.ReadFile(filepath.Join(bundle, "config.json")); err == nil && json.Valid(spec) {
		info.RuntimeSpec = spec
	}
	return infoOut(info)
}
