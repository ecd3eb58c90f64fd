package bundle

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// SetLimits replaces the limits in a configuration. The devices stay: they are no limit.
func SetLimits(spec *specs.Spec, r pod.Resources, f hostinfo.Facts) {
	devices := spec.Linux.Resources.Devices
	spec.Linux.Resources = limits(r, f)
	spec.Linux.Resources.Devices = devices
	spec.Process.OOMScoreAdj = oomScoreAdj(r.OOMScoreAdj, f)
}

// Update is what the OCI runtime is told to make the limits of a running container r. It refuses a memory limit
// that is used up already, where the kernel would kill instead.
func Update(r pod.Resources, f hostinfo.Facts) *specs.LinuxResources {
	out := limits(r, f)
	if out.Memory != nil {
		check := true
		out.Memory.CheckBeforeUpdate = &check
	}
	return out
}
