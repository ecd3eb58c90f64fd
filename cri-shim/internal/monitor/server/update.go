package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/runc"
)

// updateLimit bounds one update: the kernel may have to reclaim memory for it.
const updateLimit = time.Minute

// Update implements the protocol.
func (s *Server) Update(ctx context.Context, r *api.UpdateRequest) (*api.Empty, error) {
	c, rt, err := s.find(ctx, r.Id)
	if err != nil {
		return nil, err
	}
	// It goes on when the caller leaves: half an update is none.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), updateLimit)
	defer cancel()
	return &api.Empty{}, c.update(ctx, rt, r.Resources)
}

// update lets the OCI runtime change the limits. When it fails half-way, what it did change is put back.
func (c *container) update(ctx context.Context, rt runc.Runtime, resources []byte) error {
	c.mu.Lock()
	alive := c.handle != nil
	c.mu.Unlock()
	if !alive {
		return fmt.Errorf("container %s is not running: %w", c.rec.ID, errdefs.ErrFailedPrecondition)
	}
	var wanted specs.LinuxResources
	if err := json.Unmarshal(resources, &wanted); err != nil {
		return fmt.Errorf("update container %s: resources: %w: %w", c.rec.ID, err, errdefs.ErrInvalidArgument)
	}
	cg, err := c.s.cgroups.cgroupOf(c.rec.Bundle)
	if err != nil {
		return err
	}
	if err := cg.roomFor(wanted); err != nil {
		return fmt.Errorf("update container %s: %w", c.rec.ID, err)
	}
	file, err := writeTemp(c.rec.Bundle, "update-*.json", resources)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.rec.ID, err)
	}
	defer func() { _ = os.Remove(file) }()
	before := cg.snapshot(wanted)
	if err := rt.Update(ctx, c.rec.ID, file); err != nil {
		return errors.Join(err, before.restore())
	}
	return nil
}

// roomFor refuses a memory limit below what is in use. With cgroup v1 the kernel does; with v2 it takes any limit, and
// kills. What can be reclaimed does not count, where the kernel can be asked to (memory.reclaim, Linux 5.19).
func (c cgroup) roomFor(wanted specs.LinuxResources) error {
	if c.h.Unified == "" || wanted.Memory == nil || wanted.Memory.Limit == nil || *wanted.Memory.Limit <= 0 {
		return nil
	}
	limit, dir := *wanted.Memory.Limit, c.h.Unified+c.path
	used := func() int64 {
		data, err := os.ReadFile(filepath.Join(dir, "memory.current"))
		if err != nil {
			return 0 // without the controller no limit can be set, which the OCI runtime says
		}
		n, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		return n
	}
	if over := used() - limit; over > 0 {
		_ = os.WriteFile(filepath.Join(dir, "memory.reclaim"), []byte(strconv.FormatInt(over, 10)), 0) // EAGAIN: less than that
	}
	if n := used(); n > limit {
		return fmt.Errorf("memory limit %d: %d bytes are in use: %w", limit, n, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func writeTemp(dir, pattern string, data []byte) (string, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
	}
	return f.Name(), err
}

// setting is a cgroup file and what was in it.
type setting struct{ file, value string }

type settings []setting

// limitFilesV1 are the files of v1, by controller, that an update may write, in an order in which they can be
// written back. Some come twice: memory and swap, period and quota limit each other.
var limitFilesV1 = []struct{ controller, name string }{
	{"cpuset", "cpuset.cpus"}, {"cpuset", "cpuset.mems"},
	{"memory", "memory.limit_in_bytes"}, {"memory", "memory.memsw.limit_in_bytes"}, {"memory", "memory.limit_in_bytes"},
	{"cpu", "cpu.shares"}, {"cpu", "cpu.cfs_period_us"}, {"cpu", "cpu.cfs_quota_us"}, {"cpu", "cpu.cfs_period_us"},
}

// limitFilesV2 are those of v2, beside the keys that an update names itself.
var limitFilesV2 = []string{"cpuset.cpus", "cpuset.mems", "memory.max", "memory.swap.max", "cpu.weight", "cpu.max"}

// snapshot reads the limits that an update may change. Files that this host does not have are left out.
func (c cgroup) snapshot(wanted specs.LinuxResources) settings {
	var out settings
	read := func(file string) {
		if data, err := os.ReadFile(file); err == nil {
			out = append(out, setting{file, string(data)})
		}
	}
	if c.h.Unified == "" {
		for _, f := range limitFilesV1 {
			if dir := c.h.Dir(f.controller, c.path); dir != "" {
				read(filepath.Join(dir, f.name))
			}
		}
		return out
	}
	dir := c.h.Unified + c.path
	for _, name := range limitFilesV2 {
		read(filepath.Join(dir, name))
	}
	for name := range wanted.Unified {
		read(filepath.Join(dir, filepath.Base(name)))
	}
	return out
}

// restore writes back what has changed since. The last word counts: a file that could not be written may be
// writable once another one was.
func (s settings) restore() error {
	failed := map[string]error{}
	for _, was := range s {
		now, err := os.ReadFile(was.file)
		if err == nil && string(now) != was.value {
			err = os.WriteFile(was.file, []byte(was.value), 0)
		}
		failed[was.file] = err
	}
	var faults []error
	for _, err := range failed {
		if err != nil {
			faults = append(faults, fmt.Errorf("put a limit back: %w", err))
		}
	}
	return errors.Join(faults...)
}
