package stats

import (
	"time"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
)

// reader reads cgroups by their path below the mount points. It changes nothing.
type reader struct{ mounts cgroupfs.Mounts }

// usage reads the counters of one cgroup; one that is gone is ErrNotFound.
func (r reader) usage(path string) (Usage, error) {
	f := files.Get().(*file)
	defer files.Put(f)
	if r.mounts.Unified != "" {
		return r.usageV2(f, r.mounts.Unified+path)
	}
	return r.usageV1(f, path)
}

// cpu reads the CPU time alone, in nanoseconds.
func (r reader) cpu(path string) (uint64, error) {
	f := files.Get().(*file)
	defer files.Put(f)
	if r.mounts.Unified != "" {
		return cpuV2(f, r.mounts.Unified+path)
	}
	return r.cpuV1(f, path)
}

// tasks is the number of processes and threads; 0 without the pids controller.
func (r reader) tasks(path string) (uint64, error) {
	f := files.Get().(*file)
	defer files.Put(f)
	dir := r.mounts.Dir("pids", path)
	if dir == "" {
		return 0, nil
	}
	return f.optional(dir+"/pids.current", 0)
}

// unlimited: cgroup v1 shows the largest number of whole pages for "no limit", and a sum of two of them may be
// a little less.
const unlimited = 1 << 62

func limitV1(n uint64) uint64 {
	if n >= unlimited {
		return None
	}
	return n
}

func (r reader) cpuV1(f *file, path string) (uint64, error) {
	dir := r.mounts.Dir("cpuacct", path)
	if dir == "" {
		return 0, nil
	}
	return f.number(dir + "/cpuacct.usage")
}

func (r reader) usageV1(f *file, path string) (u Usage, err error) {
	u.At, u.Memory.Limit, u.Swap.Limit = time.Now(), None, None
	if u.CPU.Total, err = r.cpuV1(f, path); err != nil {
		return u, err
	}
	dir := r.mounts.Dir("memory", path)
	if dir == "" {
		return u, nil
	}
	m := &u.Memory
	if m.Usage, err = f.number(dir + "/memory.usage_in_bytes"); err != nil {
		return u, err
	}
	both := uint64(None)
	err = f.pairs(dir+"/memory.stat", func(key string, n uint64) {
		switch key {
		case "total_rss":
			m.RSS = n
		case "total_cache":
			m.Cache = n
		case "total_mapped_file":
			m.MappedFile = n
		case "total_active_file":
			m.ActiveFile = n
		case "total_inactive_file":
			m.InactiveFile = n
		case "total_pgfault":
			m.PageFaults = n
		case "total_pgmajfault":
			m.MajorFaults = n
		case "total_swap":
			u.Swap.Usage = n
		case "hierarchical_memory_limit":
			m.Limit = limitV1(n)
		case "hierarchical_memsw_limit":
			both = limitV1(n)
		}
	})
	m.WorkingSet = m.Usage - min(m.Usage, m.InactiveFile)
	// memsw limits memory and swap together.
	if both != None && m.Limit != None {
		u.Swap.Limit = both - min(both, m.Limit)
	}
	return u, err
}

func cpuV2(f *file, dir string) (total uint64, err error) {
	err = f.pairs(dir+"/cpu.stat", func(key string, n uint64) {
		if key == "usage_usec" {
			total = n * 1000
		}
	})
	return total, err
}

func (r reader) usageV2(f *file, dir string) (u Usage, err error) {
	u.At, u.Memory.Limit, u.Swap.Limit = time.Now(), None, None
	if u.CPU.Total, err = cpuV2(f, dir); err != nil {
		return u, err
	}
	if err := memoryV2(f, dir, &u.Memory); err != nil {
		return u, err
	}
	if u.Swap.Usage, err = f.optional(dir+"/memory.swap.current", 0); err != nil {
		return u, err
	}
	if u.Swap.Limit, err = f.optional(dir+"/memory.swap.max", None); err != nil {
		return u, err
	}
	for file, to := range map[string]**Pressure{
		"/cpu.pressure": &u.CPU.Pressure, "/memory.pressure": &u.Memory.Pressure, "/io.pressure": &u.IO,
	} {
		if *to, err = f.pressure(dir + file); err != nil {
			return u, err
		}
	}
	return u, nil
}

// memoryV2 leaves zeros where the memory controller is not enabled for the cgroup.
func memoryV2(f *file, dir string, m *Memory) (err error) {
	if m.Usage, err = f.optional(dir+"/memory.current", 0); err != nil || m.Usage == 0 {
		return err
	}
	err = f.pairs(dir+"/memory.stat", func(key string, n uint64) {
		switch key {
		case "anon":
			m.RSS = n
		case "file":
			m.Cache = n
		case "file_mapped":
			m.MappedFile = n
		case "active_file":
			m.ActiveFile = n
		case "inactive_file":
			m.InactiveFile = n
		case "pgfault":
			m.PageFaults = n
		case "pgmajfault":
			m.MajorFaults = n
		}
	})
	if err != nil {
		return err
	}
	m.WorkingSet = m.Usage - min(m.Usage, m.InactiveFile)
	m.Limit, err = f.optional(dir+"/memory.max", None)
	return err
}
