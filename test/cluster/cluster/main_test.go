package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// program runs the built program; another exit code than 0 is the end of the test.
func program(t *testing.T, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "../../../.cache/cluster", append([]string{"--dir", dir}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("cluster %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestUpAndDown(t *testing.T) {
	nettest.RequireRoot(t)
	for name, end := range map[string]func(state) error{
		"in good order": func(state) error { return nil },
		// Its daemons end with it, and what runs in pods does not.
		"after kill -9": func(s state) error { return syscall.Kill(s.PID, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(os.TempDir(), fmt.Sprintf("podwright-up-%d", os.Getpid()))
			program(t, dir, "up", "--nodes", "1")
			if out := program(t, dir, "nodes"); !strings.Contains(out, "cri-shim://") || strings.Count(out, " Ready ") != 1 {
				t.Errorf("nodes: %s", out)
			}
			program(t, dir, "kubectl", "run", "some", "--image=podwright.test/busybox:latest", "--restart=Never", "--", "sleep", "100000")
			program(t, dir, "kubectl", "wait", "--for=condition=Ready", "--timeout=120s", "pod/some")
			if out := program(t, dir, "enter", "node1", "ip", "link", "show", "cni0"); !strings.Contains(out, "cni0") {
				t.Errorf("the node's bridge: %s", out)
			}
			s, err := options{dir: dir}.read()
			if err := errors.Join(err, end(s)); err != nil {
				t.Fatal(err)
			}
			if out := program(t, dir, "down"); !strings.HasSuffix(out, "left behind: nothing\n") {
				t.Errorf("down: %s", out)
			}
			if left, _ := filepath.Glob(dir + "*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if left, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir)); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
