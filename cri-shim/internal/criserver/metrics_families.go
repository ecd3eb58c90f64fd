package criserver

import (
	"github.com/podwright/podwright/cri-shim/internal/stats"
	"github.com/podwright/podwright/pkg/netutil"
)

// one is the values function of families with one value.
func one(value func(reading) uint64) func(reading) []point {
	return func(r reading) []point { return []point{{value: value(r)}} }
}

// limit shows "none" as 0, as cAdvisor does.
func limit(n uint64) uint64 {
	if n == stats.None {
		return 0
	}
	return n
}

// asked is a limit of the request; what is not limited is 0.
func asked(n, otherwise int64) uint64 {
	if n == 0 {
		n = otherwise
	}
	return uint64(max(n, 0))
}

// perDevice is one value per block device; before any is used, zero on the one where the container's files are.
func perDevice(value func(stats.Device) uint64) func(reading) []point {
	return func(r reading) (out []point) {
		for _, d := range r.details.Devices {
			out = append(out, point{value: value(d), labels: []string{d.Name}})
		}
		if len(out) == 0 {
			out = []point{{labels: []string{r.fs.Device}}}
		}
		return out
	}
}

// onDisk is a value of the file system with the writable layers.
func onDisk(value func(stats.FileSystem) uint64) func(reading) []point {
	return func(r reading) []point { return []point{{value: value(r.fs), labels: []string{r.fs.Device}}} }
}

func layerBytes(r reading) []point {
	if r.usage.Layer == nil {
		return nil
	}
	return []point{{value: r.usage.Layer.Bytes, labels: []string{r.fs.Device}, at: r.usage.Layer.At.UnixNano()}}
}

func deviceUsage(r reading) (out []point) {
	for _, d := range r.details.Devices {
		out = append(out,
			point{value: d.ReadBytes, labels: []string{d.Name, d.Major, d.Minor, "Read"}},
			point{value: d.WriteBytes, labels: []string{d.Name, d.Major, d.Minor, "Write"}})
	}
	return out
}

func pageFaults(r reading) []point {
	return []point{
		{value: r.usage.Memory.PageFaults, labels: []string{"pgfault", "container"}},
		{value: r.usage.Memory.MajorFaults, labels: []string{"pgmajfault", "container"}},
	}
}

func openFiles(r reading) []point {
	if r.details.OpenFiles == stats.None {
		return nil // no number stands for it
	}
	return []point{{value: r.details.OpenFiles, labels: []string{"max_open_files"}}}
}

// stalled is a total of a pressure file; nothing where the kernel keeps none.
func stalled(of func(reading) *stats.Pressure, line func(stats.Pressure) stats.Stall) func(reading) []point {
	return func(r reading) []point {
		p := of(r)
		if p == nil {
			return nil
		}
		return []point{{value: wholeSeconds(line(*p).Total)}}
	}
}

func some(p stats.Pressure) stats.Stall { return p.Some }
func full(p stats.Pressure) stats.Stall { return p.Full }

func cpuPressure(r reading) *stats.Pressure    { return r.usage.CPU.Pressure }
func memoryPressure(r reading) *stats.Pressure { return r.usage.Memory.Pressure }
func ioPressure(r reading) *stats.Pressure     { return r.usage.IO }

func interfaceOf(n stats.Network, i int) netutil.Counters {
	if i == 0 {
		return *n.Default
	}
	return n.Others[i-1]
}

func onInterface(value func(netutil.Counters) uint64) func(stats.Network, int) uint64 {
	return func(n stats.Network, i int) uint64 { return value(interfaceOf(n, i)) }
}
