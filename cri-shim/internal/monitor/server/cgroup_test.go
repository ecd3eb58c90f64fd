package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestKillThawsTheEmpty: a cgroup that a monitor froze and left, because it died or its last process did, is thawed by
// the next kill: the OCI runtime deletes nothing that is frozen.
func TestKillThawsTheEmpty(t *testing.T) {
	nettest.RequireRoot(t)
	h, err := findHierarchies()
	if err != nil {
		t.Fatal(err)
	}
	c := cgroup{h, fmt.Sprintf("/podwright-test-thaw%d", os.Getpid())}
	dir, file, frozen, thawed := h.V1["freezer"]+c.path, "/freezer.state", "FROZEN", "THAWED"
	if h.Unified != "" {
		dir, file, frozen, thawed = h.Unified+c.path, "/cgroup.freeze", "1", "0"
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(dir+file, []byte(frozen), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.kill(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(dir + file); strings.TrimSpace(string(got)) != thawed || err != nil {
		t.Errorf("the cgroup is %q, %v", got, err)
	}
}

// TestThreadedCgroups: one that a container has made for threads lists no processes; those are in the one above.
func TestThreadedCgroups(t *testing.T) {
	nettest.RequireRoot(t)
	root := t.TempDir()
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(root, unix.MNT_DETACH) }()
	c := cgroup{hierarchies{cgroupfs.Mounts{Unified: root}}, fmt.Sprintf("/podwright-test-threads%d", os.Getpid())}
	for _, dir := range []string{root + c.path, root + c.path + "/threads"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(dir) }()
	}
	if err := os.WriteFile(root+c.path+"/threads/cgroup.type", []byte("threaded"), 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	pid := strconv.Itoa(cmd.Process.Pid)
	if err := errors.Join(os.WriteFile(root+c.path+"/cgroup.procs", []byte(pid), 0), os.WriteFile(root+c.path+"/threads/cgroup.threads", []byte(pid), 0)); err != nil {
		t.Fatal(err)
	}
	if pids, err := c.pids(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("its processes: %v, %v", pids, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.kill(ctx); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // says that it was killed
}
