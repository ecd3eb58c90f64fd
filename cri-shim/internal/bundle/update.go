package bundle

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// SetLimits replaces the limits in a configuration. Devices stay, which are no limit, and so does what only plugins
// can have set.
func SetLimits(spec *specs.Spec, r pod.Resources, f hostinfo.Facts) {
	was, now := spec.Linux.Resources, limits(r, f)
	now.Devices, now.Pids, now.BlockIO, now.Network, now.Rdma = was.Devices, was.Pids, was.BlockIO, was.Network, was.Rdma
	if was.CPU != nil && (was.CPU.RealtimePeriod != nil || was.CPU.RealtimeRuntime != nil) {
		if now.CPU == nil {
			now.CPU = &specs.LinuxCPU{}
		}
		now.CPU.RealtimePeriod, now.CPU.RealtimeRuntime = was.CPU.RealtimePeriod, was.CPU.RealtimeRuntime
	}
	spec.Linux.Resources = now
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
