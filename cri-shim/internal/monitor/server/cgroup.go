package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
	"github.com/podwright/podwright/cri-shim/internal/proc"
)

// hierarchies are the mounted cgroup trees of this host.
type hierarchies struct{ cgroupfs.Mounts }

func findHierarchies() (hierarchies, error) {
	m, err := cgroupfs.Find()
	return hierarchies{m}, err
}

// cgroup is the cgroup of one container in all hierarchies.
type cgroup struct {
	h    hierarchies
	path string // below each mount point
}

// cgroupOf reads the place of a container's cgroup from its bundle: the runtime makes it exactly there.
func (h hierarchies) cgroupOf(bundle string) (cgroup, error) {
	var spec struct {
		Linux struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	}
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return cgroup{}, err
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return cgroup{}, fmt.Errorf("%s/config.json: %w", bundle, err)
	}
	path, err := cgroupfs.Path(spec.Linux.CgroupsPath)
	if err != nil {
		return cgroup{}, fmt.Errorf("%s/config.json: linux.cgroupsPath: %w", bundle, err)
	}
	return cgroup{h, path}, nil
}

// dirs are the container's directories that list its processes, the surest first.
func (c cgroup) dirs() []string {
	if c.h.Unified != "" {
		return []string{c.h.Unified + c.path}
	}
	var out []string
	for _, controller := range []string{"freezer", "pids", "memory", "devices", "cpu"} {
		if root := c.h.V1[controller]; root != "" {
			if dir := root + c.path; isDir(dir) {
				out = append(out, dir)
			}
		}
	}
	return out
}

func isDir(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}

// pids lists the processes of the container, those of cgroups below included.
func (c cgroup) pids() ([]int, error) {
	dirs := c.dirs()
	if len(dirs) == 0 {
		return nil, nil
	}
	var pids []int
	err := filepath.WalkDir(dirs[0], func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil // of threads, whose processes are listed above
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for _, line := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(line); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the processes of cgroup %s: %w", c.path, err)
	}
	return pids, nil
}

// kill ends every process of the container and returns when none is left.
func (c cgroup) kill(ctx context.Context) error {
	if c.h.Unified != "" {
		// cgroup.kill (Linux 5.14) leaves no process the time to fork.
		_ = os.WriteFile(filepath.Join(c.h.Unified+c.path, "cgroup.kill"), []byte("1"), 0)
	}
	for round := 0; ; round++ {
		if round >= 2 {
			c.freeze() // it forks faster than we kill
		}
		pids, err := c.pids()
		if err != nil || len(pids) == 0 {
			c.thaw() // also what a monitor that was killed in here has left: runc deletes nothing that is frozen
			return err
		}
		err = signalAll(pids)
		c.thaw()
		if err := errors.Join(err, awaitAll(ctx, pids)); err != nil {
			return fmt.Errorf("kill cgroup %s: %w", c.path, err)
		}
	}
}

// freeze stops a v1 cgroup from forking.
func (c cgroup) freeze() {
	if root := c.h.V1["freezer"]; root != "" {
		_ = os.WriteFile(root+c.path+"/freezer.state", []byte("FROZEN"), 0)
	}
}

// thaw lets killed processes of a v1 cgroup die, whoever has frozen it or one below. Those of v2 die all the same, but
// the OCI runtime deletes nothing whose cgroup is frozen.
func (c cgroup) thaw() {
	if c.h.Unified != "" {
		_ = os.WriteFile(c.h.Unified+c.path+"/cgroup.freeze", []byte("0"), 0)
	}
	root := c.h.V1["freezer"]
	if root == "" {
		return
	}
	_ = filepath.WalkDir(root+c.path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "freezer.state" {
			_ = os.WriteFile(path, []byte("THAWED"), 0)
		}
		return nil // what is gone holds nobody
	})
}

// killAll kills processes and returns when the last has ended.
func killAll(ctx context.Context, pids []int) error {
	return errors.Join(signalAll(pids), awaitAll(ctx, pids))
}

func signalAll(pids []int) error {
	var faults []error
	for _, pid := range pids {
		faults = append(faults, withProcess(pid, func(h *proc.Handle) error { return h.Signal(unix.SIGKILL) }))
	}
	return errors.Join(faults...)
}

func awaitAll(ctx context.Context, pids []int) error {
	var faults []error
	for _, pid := range pids {
		faults = append(faults, withProcess(pid, func(h *proc.Handle) error {
			defer context.AfterFunc(ctx, func() { _ = h.Close() })()
			return h.Wait()
		}))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(faults...)
}

// withProcess does something with a process unless it has ended.
func withProcess(pid int, f func(*proc.Handle) error) error {
	st, err := proc.ReadStat(pid)
	if err != nil || st.Zombie {
		return nil
	}
	h, err := proc.Open(pid, st.Start)
	if err != nil {
		return nil
	}
	defer func() { _ = h.Close() }()
	return f(h)
}

// oomKills is how many processes of the container the kernel has killed for want of memory; not known where the file is gone, or was
// never there.
func (c cgroup) oomKills() (count int, known bool) {
	file := filepath.Join(c.h.Unified+c.path, "memory.events")
	if c.h.Unified == "" {
		if c.h.V1["memory"] == "" {
			return 0, false
		}
		file = c.h.V1["memory"] + c.path + "/memory.oom_control"
	}
	f, err := os.Open(file)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), " ")
		if key == "oom_kill" {
			count, err = strconv.Atoi(value)
			return count, err == nil
		}
	}
	return 0, false
}
