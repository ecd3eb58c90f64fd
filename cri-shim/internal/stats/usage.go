package stats

import (
	"math"
	"time"
)

// None stands for a limit that is not set.
const None = math.MaxUint64

// Usage is what one cgroup and all below it have used. Counters run from the cgroup's making.
type Usage struct {
	At        time.Time
	CPU       CPU
	Memory    Memory
	Swap      Swap
	IO        *Pressure // nil where the kernel does not tell
	Processes uint64    // tasks of the pids controller; only of sandboxes
}

// CPU is processor time in nanoseconds.
type CPU struct {
	Total    uint64
	Pressure *Pressure
}

// Memory is in bytes, but for the faults, which are counted.
type Memory struct {
	Usage        uint64
	WorkingSet   uint64 // usage without file pages not used of late: what the kubelet evicts by
	RSS          uint64 // anonymous memory
	Cache        uint64
	MappedFile   uint64
	ActiveFile   uint64
	InactiveFile uint64
	Limit        uint64 // the lowest on the way to the root, where the kernel tells; None
	PageFaults   uint64
	MajorFaults  uint64
	Pressure     *Pressure
}

// Available is the memory left up to the limit, false when there is no limit.
func (m Memory) Available() (uint64, bool) { return left(m.Limit, m.WorkingSet) }

// Swap is in bytes.
type Swap struct {
	Usage uint64
	Limit uint64 // None
}

// Available is the swap left up to the limit, false when there is no limit.
func (s Swap) Available() (uint64, bool) { return left(s.Limit, s.Usage) }

func left(limit, used uint64) (uint64, bool) {
	if limit == None {
		return 0, false
	}
	return limit - min(limit, used), true
}

// Pressure is how long tasks were held up for want of a resource (Documentation/accounting/psi.rst).
type Pressure struct {
	Some, Full Stall
}

// Stall is one line of a pressure file.
type Stall struct {
	Total                uint64 // ns
	Avg10, Avg60, Avg300 float64
}

// Container is the usage of a container.
type Container struct {
	Usage
	Cgroup    string  // path below the mount points
	NanoCores *uint64 // CPU nanoseconds per second over the last seconds; nil before there are two samples
	Layer     *Layer  // nil before the first look
}

// Sandbox is the usage of a pod.
type Sandbox struct {
	Usage
	Cgroup    string // "" when the pod has none to itself
	NanoCores *uint64
	Network   *Network // nil on the host's network
}

// Layer is what a writable layer takes on its file system.
type Layer struct {
	At     time.Time
	Bytes  uint64
	Inodes uint64
}

// add sums two usages of cgroups that do not contain each other.
func (u *Usage) add(v Usage) {
	u.CPU.Total += v.CPU.Total
	u.Memory.Usage += v.Memory.Usage
	u.Memory.WorkingSet += v.Memory.WorkingSet
	u.Memory.RSS += v.Memory.RSS
	u.Memory.Cache += v.Memory.Cache
	u.Memory.MappedFile += v.Memory.MappedFile
	u.Memory.ActiveFile += v.Memory.ActiveFile
	u.Memory.InactiveFile += v.Memory.InactiveFile
	u.Memory.PageFaults += v.Memory.PageFaults
	u.Memory.MajorFaults += v.Memory.MajorFaults
	u.Swap.Usage += v.Swap.Usage
	u.Processes += v.Processes
}
