package bundle

import (
	"maps"
	"reflect"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Adjusted is what f changes of the limits in a configuration, on top of the limits that were asked for; nil when it
// changes none.
func Adjusted(spec *specs.Spec, asked pod.Resources, f func(*specs.Spec) error) (*pod.Resources, error) {
	before := limitsIn(spec)
	if err := f(spec); err != nil {
		return nil, err
	}
	after := limitsIn(spec)
	if reflect.DeepEqual(before, after) {
		return nil, nil
	}
	// Field by field: what was not touched stays as it was asked for, zero for the kernel's default.
	was, now, out := reflect.ValueOf(before), reflect.ValueOf(after), reflect.ValueOf(&asked).Elem()
	for i := range was.NumField() {
		if !reflect.DeepEqual(was.Field(i).Interface(), now.Field(i).Interface()) {
			out.Field(i).Set(now.Field(i))
		}
	}
	return &asked, nil
}

// limitsIn reads limits back.
func limitsIn(spec *specs.Spec) pod.Resources {
	var out pod.Resources
	if spec.Process != nil && spec.Process.OOMScoreAdj != nil {
		out.OOMScoreAdj = int64(*spec.Process.OOMScoreAdj)
	}
	if spec.Linux == nil || spec.Linux.Resources == nil {
		return out
	}
	r := spec.Linux.Resources
	if c := r.CPU; c != nil {
		out.CPUPeriod, out.CPUQuota, out.CPUShares = int64(value(c.Period)), value(c.Quota), int64(value(c.Shares))
		out.CpusetCPUs, out.CpusetMems = c.Cpus, c.Mems
	}
	if m := r.Memory; m != nil {
		out.MemoryLimit, out.MemorySwap = value(m.Limit), value(m.Swap)
	}
	for _, h := range r.HugepageLimits {
		if out.HugepageCaps == nil {
			out.HugepageCaps = make(map[string]uint64, len(r.HugepageLimits))
		}
		out.HugepageCaps[h.Pagesize] = h.Limit
	}
	if len(r.Unified) > 0 {
		out.Unified = maps.Clone(r.Unified)
	}
	return out
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
