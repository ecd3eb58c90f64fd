package bundle

import (
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func resources(in Input) *specs.LinuxResources {
	c := in.Container.Config
	out := limits(c.Resources, in.Facts)
	if c.Privileged && (!in.Handler.NoHostDevices || in.Handler.AllDevices) {
		out.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return out
	}
	out.Devices = append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, in.Rules...)
	return out
}

// limits leaves out what the host has no controller for, where the kubelet sends it to every host: hugepages,
// and cgroup v2 keys.
func limits(r pod.Resources, f hostinfo.Facts) *specs.LinuxResources {
	out := &specs.LinuxResources{CPU: cpu(r), Memory: memory(r)}
	if f.Controllers["hugetlb"] {
		for _, size := range slices.Sorted(maps.Keys(r.HugepageCaps)) {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: r.HugepageCaps[size]})
		}
	}
	if f.CgroupV2 {
		out.Unified = maps.Clone(r.Unified)
	}
	return out
}

func cpu(r pod.Resources) *specs.LinuxCPU {
	if r.CPUPeriod == 0 && r.CPUQuota == 0 && r.CPUShares == 0 && r.CpusetCPUs == "" && r.CpusetMems == "" {
		return nil
	}
	out := &specs.LinuxCPU{Cpus: r.CpusetCPUs, Mems: r.CpusetMems}
	if r.CPUPeriod > 0 {
		period := uint64(r.CPUPeriod)
		out.Period = &period
	}
	if r.CPUQuota != 0 {
		out.Quota = &r.CPUQuota
	}
	if r.CPUShares > 0 {
		shares := uint64(max(r.CPUShares, 2)) // the kernel's least
		out.Shares = &shares
	}
	return out
}

// memory gives no swap beyond the limit unless it was asked for.
func memory(r pod.Resources) *specs.LinuxMemory {
	if r.MemoryLimit == 0 {
		return nil
	}
	swap := r.MemorySwap
	if swap == 0 {
		swap = r.MemoryLimit
	}
	return &specs.LinuxMemory{Limit: &r.MemoryLimit, Swap: &swap}
}
