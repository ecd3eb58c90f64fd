package bundle

import (
	"errors"
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func TestAdjusted(t *testing.T) {
	asked := pod.Resources{CPUShares: 1, MemoryLimit: 100, HugepageCaps: map[string]uint64{"2MB": 1}, Unified: map[string]string{"a.b": "1"}}
	made := func() *specs.Spec {
		return spec(t, func(in *Input) { in.Container.Config.Resources = asked })
	}
	// 1 share becomes the kernel's least, and swap the limit: neither is a change.
	if got, err := Adjusted(made(), asked, func(*specs.Spec) error { return nil }); err != nil || got != nil {
		t.Errorf("no change: %+v, %v", got, err)
	}
	got, err := Adjusted(made(), asked, func(s *specs.Spec) error {
		limit, score := int64(50), 7
		s.Linux.Resources.Memory.Limit, s.Linux.Resources.Memory.Swap = &limit, &limit
		s.Linux.Resources.Unified["c.d"] = "2"
		s.Process.OOMScoreAdj = &score
		return nil
	})
	want := asked
	want.MemoryLimit, want.MemorySwap, want.OOMScoreAdj, want.Unified = 50, 50, 7, map[string]string{"a.b": "1", "c.d": "2"}
	if err != nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v, want %+v, %v", got, want, err)
	}
	if asked.MemoryLimit != 100 || len(asked.Unified) != 1 {
		t.Errorf("what was asked for has changed: %+v", asked)
	}
	refused := errors.New("refused")
	if _, err := Adjusted(made(), asked, func(*specs.Spec) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}

// TestSetLimitsKeepsWhatOnlyPluginsSet: a kubelet's update knows nothing of it.
func TestSetLimitsKeepsWhatOnlyPluginsSet(t *testing.T) {
	s := spec(t, nil)
	n, period := int64(5), uint64(6)
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &n}
	s.Linux.Resources.BlockIO = &specs.LinuxBlockIO{}
	s.Linux.Resources.CPU = &specs.LinuxCPU{RealtimePeriod: &period, Cpus: "3"}
	devices := len(s.Linux.Resources.Devices)
	SetLimits(s, pod.Resources{MemoryLimit: 7}, input().Facts)
	r := s.Linux.Resources
	if r.Pids == nil || *r.Pids.Limit != 5 || r.BlockIO == nil || *r.CPU.RealtimePeriod != 6 || len(r.Devices) != devices {
		t.Errorf("got %+v", r)
	}
	if *r.Memory.Limit != 7 || r.CPU.Cpus != "" {
		t.Errorf("got %+v, cpus %q", r.Memory, r.CPU.Cpus)
	}
}
