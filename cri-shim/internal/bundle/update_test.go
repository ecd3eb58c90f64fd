package bundle

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func TestSetLimits(t *testing.T) {
	f := hostinfo.Facts{CgroupV2: true, CanLowerOOM: true}
	spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}, CPU: &specs.LinuxCPU{Cpus: "3"},
	}}}
	SetLimits(spec, pod.Resources{MemoryLimit: 1 << 20, OOMScoreAdj: -5, Unified: map[string]string{"memory.high": "max"}}, f)
	r := spec.Linux.Resources
	if len(r.Devices) != 1 || r.CPU != nil || *r.Memory.Limit != 1<<20 || *r.Memory.Swap != 1<<20 || r.Memory.CheckBeforeUpdate != nil {
		t.Errorf("got %+v", r)
	}
	if *spec.Process.OOMScoreAdj != -5 || r.Unified["memory.high"] != "max" {
		t.Errorf("got %+v, %v", r, *spec.Process.OOMScoreAdj)
	}
	u := Update(pod.Resources{MemoryLimit: 1 << 20, CPUShares: 1}, f)
	if len(u.Devices) != 0 || !*u.Memory.CheckBeforeUpdate || *u.CPU.Shares != 2 {
		t.Errorf("got %+v", u)
	}
	if u := Update(pod.Resources{Unified: map[string]string{"memory.high": "max"}}, hostinfo.Facts{}); u.Unified != nil || u.Memory != nil {
		t.Errorf("cgroup v2 keys on a v1 host: %+v", u)
	}
}
