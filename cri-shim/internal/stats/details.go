package stats

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Details are the counters of a container that only metrics show. They cost more to read than a Usage.
type Details struct {
	User, System     uint64 // ns of CPU
	Periods          uint64 // of the CPU quota
	ThrottledPeriods uint64
	ThrottledTime    uint64 // ns

	MaxMemory      uint64 // bytes; 0 where the kernel does not tell
	KernelMemory   uint64 // bytes
	MemoryFailures uint64 // times the limit was hit
	OOMKills       uint64

	Devices []Device

	Processes, Threads       uint64
	MaxThreads               uint64 // None
	FileDescriptors, Sockets uint64 // of all processes
	OpenFiles                uint64 // soft limit of the first process; None
}

// Device is what a container has read from and written to one block device.
type Device struct {
	Name                  string // "/dev/sda"; empty when the kernel knows no name
	Major, Minor          string
	ReadBytes, WriteBytes uint64
	ReadCount, WriteCount uint64
}

// details reads one cgroup; one that is gone is ErrNotFound.
func (r reader) details(path string, pid int) (Details, error) {
	f := files.Get().(*file)
	defer files.Put(f)
	d := Details{MaxThreads: None}
	var err error
	if r.mounts.Unified != "" {
		err = d.readV2(f, r.mounts.Unified+path)
	} else {
		err = d.readV1(f, r, path)
	}
	if err == nil {
		err = d.readTasks(f, r.mounts.Dir("pids", path))
	}
	if err == nil {
		d.readProcesses(f, r.mounts.Dir("pids", path), pid)
	}
	return d, err
}

func (d *Details) readV1(f *file, r reader, path string) error {
	const tick = 1_000_000_000 / 100 // cpuacct.stat counts in USER_HZ
	faults := []error{
		pairsIn(f, r.mounts.Dir("cpuacct", path), "cpuacct.stat", map[string]*uint64{"user": &d.User, "system": &d.System}),
		pairsIn(f, r.mounts.Dir("cpu", path), "cpu.stat", map[string]*uint64{
			"nr_periods": &d.Periods, "nr_throttled": &d.ThrottledPeriods, "throttled_time": &d.ThrottledTime,
		}),
		pairsIn(f, r.mounts.Dir("memory", path), "memory.oom_control", map[string]*uint64{"oom_kill": &d.OOMKills}),
	}
	d.User, d.System = d.User*tick, d.System*tick
	if dir := r.mounts.Dir("memory", path); dir != "" {
		for file, to := range map[string]*uint64{
			"memory.max_usage_in_bytes": &d.MaxMemory, "memory.failcnt": &d.MemoryFailures, "memory.kmem.usage_in_bytes": &d.KernelMemory,
		} {
			var err error
			*to, err = f.optional(filepath.Join(dir, file), 0)
			faults = append(faults, err)
		}
	}
	if dir := r.mounts.Dir("blkio", path); dir != "" {
		faults = append(faults, d.readBlkio(f, dir))
	}
	return errors.Join(faults...)
}

// pairsIn reads numbers by their keys from a file that may be missing.
func pairsIn(f *file, dir, name string, to map[string]*uint64) error {
	if dir == "" {
		return nil
	}
	err := f.pairs(filepath.Join(dir, name), func(key string, n uint64) {
		if p := to[key]; p != nil {
			*p = n
		}
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// readBlkio reads lines like "8:0 Read 4096" (Documentation/admin-guide/cgroup-v1/blkio-controller.rst).
func (d *Details) readBlkio(f *file, dir string) error {
	for name, pick := range map[string]func(*Device) (read, write *uint64){
		"blkio.throttle.io_service_bytes_recursive": func(d *Device) (*uint64, *uint64) { return &d.ReadBytes, &d.WriteBytes },
		"blkio.throttle.io_serviced_recursive":      func(d *Device) (*uint64, *uint64) { return &d.ReadCount, &d.WriteCount },
	} {
		data, err := f.read(filepath.Join(dir, name))
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			words := strings.Fields(line)
			if len(words) != 3 {
				continue // the total of all devices
			}
			n, err := strconv.ParseUint(words[2], 10, 64)
			device := d.device(words[0])
			if err != nil || device == nil {
				continue
			}
			switch read, write := pick(device); words[1] {
			case "Read":
				*read = n
			case "Write":
				*write = n
			}
		}
	}
	return nil
}

// device finds or adds the device of numbers like "8:0".
func (d *Details) device(numbers string) *Device {
	major, minor, ok := strings.Cut(numbers, ":")
	if !ok {
		return nil
	}
	for i := range d.Devices {
		if d.Devices[i].Major == major && d.Devices[i].Minor == minor {
			return &d.Devices[i]
		}
	}
	d.Devices = append(d.Devices, Device{Name: deviceName(major, minor), Major: major, Minor: minor})
	return &d.Devices[len(d.Devices)-1]
}

// deviceName asks sysfs. A file system may be on a device without a name, as tmpfs and btrfs are.
func deviceName(major, minor string) string {
	data, err := os.ReadFile("/sys/dev/block/" + major + ":" + minor + "/uevent")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(line, "DEVNAME="); ok {
			return "/dev/" + strings.TrimSpace(name)
		}
	}
	return ""
}

func (d *Details) readV2(f *file, dir string) error {
	faults := []error{
		pairsIn(f, dir, "cpu.stat", map[string]*uint64{
			"user_usec": &d.User, "system_usec": &d.System,
			"nr_periods": &d.Periods, "nr_throttled": &d.ThrottledPeriods, "throttled_usec": &d.ThrottledTime,
		}),
		pairsIn(f, dir, "memory.events", map[string]*uint64{"max": &d.MemoryFailures, "oom_kill": &d.OOMKills}),
		pairsIn(f, dir, "memory.stat", map[string]*uint64{"kernel": &d.KernelMemory}),
	}
	for _, usec := range []*uint64{&d.User, &d.System, &d.ThrottledTime} {
		*usec *= 1000
	}
	var err error
	d.MaxMemory, err = f.optional(filepath.Join(dir, "memory.peak"), 0)
	return errors.Join(append(faults, err, d.readIOStat(f, dir))...)
}

// readIOStat reads lines like "8:0 rbytes=4096 wbytes=0 rios=1 wios=0" (cgroup-v2.rst).
func (d *Details) readIOStat(f *file, dir string) error {
	data, err := f.read(filepath.Join(dir, "io.stat"))
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		device := d.device(words[0])
		if device == nil {
			continue
		}
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				continue
			}
			switch key {
			case "rbytes":
				device.ReadBytes = n
			case "wbytes":
				device.WriteBytes = n
			case "rios":
				device.ReadCount = n
			case "wios":
				device.WriteCount = n
			}
		}
	}
	return nil
}

func (d *Details) readTasks(f *file, dir string) (err error) {
	if dir == "" {
		return nil
	}
	if d.Threads, err = f.optional(dir+"/pids.current", 0); err != nil {
		return err
	}
	d.MaxThreads, err = f.optional(dir+"/pids.max", None)
	return err
}

// readProcesses looks at each process. They come and go meanwhile: what cannot be read is not counted.
func (d *Details) readProcesses(f *file, dir string, pid int) {
	d.OpenFiles = openFiles(f, pid)
	if dir == "" {
		return
	}
	data, err := f.read(dir + "/cgroup.procs")
	if err != nil {
		return
	}
	pids := strings.Fields(string(data))
	d.Processes = uint64(len(pids))
	for _, p := range pids {
		fds := filepath.Join("/proc", p, "fd")
		entries, err := os.ReadDir(fds)
		if err != nil {
			continue
		}
		d.FileDescriptors += uint64(len(entries))
		for _, e := range entries {
			if target, err := os.Readlink(filepath.Join(fds, e.Name())); err == nil && strings.HasPrefix(target, "socket:") {
				d.Sockets++
			}
		}
	}
}

// openFiles reads the soft limit of open files from proc_pid_limits(5).
func openFiles(f *file, pid int) uint64 {
	data, err := f.read("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(data) {
		rest, ok := bytes.CutPrefix(line, []byte("Max open files"))
		if words := bytes.Fields(rest); ok && len(words) > 0 {
			if string(words[0]) == "unlimited" {
				return None
			}
			n, _ := strconv.ParseUint(string(words[0]), 10, 64)
			return n
		}
	}
	return 0
}
