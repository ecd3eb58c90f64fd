// Package hostinfo finds out once, at start, what this host and this process can do. It decides nothing and
// changes nothing; what is missing is refused, clamped or reported by those who ask.
package hostinfo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// Facts are what was found.
type Facts struct {
	BootID      string          // of this boot, from /proc/sys/kernel/random/boot_id
	CgroupV2    bool            // /sys/fs/cgroup is the unified hierarchy
	Controllers map[string]bool // cgroup controllers that can be used
	Systemd     bool            // systemd is process 1 and manages cgroups
	Caps        []string        // our bounding set, as CAP_…, sorted by number
	OOMScoreAdj int             // our own
	CanLowerOOM bool            // CAP_SYS_RESOURCE: scores below our own and higher rlimits are permitted
	NofileHard  uint64          // our hard limit of open files
	AppArmor    bool
	SELinux     bool
	KernelMajor int
	KernelMinor int
}

// KernelAtLeast says whether the kernel is not older than major.minor.
func (f Facts) KernelAtLeast(major, minor int) bool {
	return f.KernelMajor > major || (f.KernelMajor == major && f.KernelMinor >= minor)
}

// Collect reads the facts from the kernel.
func Collect() (Facts, error) {
	var f Facts
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return f, fmt.Errorf("read the boot id: %w", err)
	}
	f.BootID = strings.TrimSpace(string(boot))
	if err := f.collectCgroups(); err != nil {
		return f, err
	}
	_, err = os.Stat("/run/systemd/system")
	f.Systemd = err == nil
	if err := f.collectRights(); err != nil {
		return f, err
	}
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	f.AppArmor = strings.HasPrefix(string(enabled), "Y")
	_, err = os.Stat("/sys/fs/selinux/enforce")
	f.SELinux = err == nil
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return f, fmt.Errorf("uname: %w", err)
	}
	f.KernelMajor, f.KernelMinor = parseRelease(unix.ByteSliceToString(uts.Release[:]))
	return f, nil
}

func (f *Facts) collectCgroups() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return fmt.Errorf("statfs /sys/fs/cgroup: %w", err)
	}
	f.CgroupV2 = st.Type == unix.CGROUP2_SUPER_MAGIC
	if f.CgroupV2 {
		data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return fmt.Errorf("read cgroup controllers: %w", err)
		}
		f.Controllers = set(strings.Fields(string(data)))
		return nil
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("read cgroup mounts: %w", err)
	}
	f.Controllers = v1Controllers(string(mounts))
	return nil
}

// v1Controllers returns the options of all cgroup v1 mounts in the format of proc_pid_mounts(5): the
// controllers, and some words that are none.
func v1Controllers(mounts string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); len(f) >= 4 && f[2] == "cgroup" {
			for _, opt := range strings.Split(f[3], ",") {
				out[opt] = true
			}
		}
	}
	return out
}

func (f *Facts) collectRights() error {
	caps, err := capability.NewPid2(0)
	if err == nil {
		err = caps.Load()
	}
	if err != nil {
		return fmt.Errorf("read our capabilities: %w", err)
	}
	last, err := capability.LastCap()
	if err != nil {
		return fmt.Errorf("read our capabilities: %w", err)
	}
	for c := capability.Cap(0); c <= last; c++ {
		if caps.Get(capability.BOUNDING, c) {
			f.Caps = append(f.Caps, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	f.CanLowerOOM = caps.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE)
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err == nil {
		f.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(score)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read our OOM score: %w", err)
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("read our file limit: %w", err)
	}
	f.NofileHard = files.Max
	return nil
}

// parseRelease reads the first two numbers of a kernel release such as 6.12.9-amd64.
func parseRelease(release string) (major, minor int) {
	first, rest, _ := strings.Cut(release, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	major, _ = strconv.Atoi(first)
	minor, _ = strconv.Atoi(rest[:end])
	return major, minor
}

func set(words []string) map[string]bool {
	out := make(map[string]bool, len(words))
	for _, w := range words {
		out[w] = true
	}
	return out
}
