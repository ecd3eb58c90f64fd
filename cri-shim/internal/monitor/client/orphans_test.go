package client

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// gate is an OCI runtime that, while a file is there, waits before or after it starts a command.
const gate = `#!/bin/sh
wait_at() {
	[ -e %[1]s-$1 ] && : > %[1]s-reached
	while [ -e %[1]s-$1 ]; do sleep 0.01; done
}
case " $* " in *" exec "*) wait_at before; %[2]s "$@"; code=$?; wait_at after; exit $code ;; esac
exec %[2]s "$@"
`

// TestKillMonitorUnderCommands kills the monitor while a command runs, and while the OCI runtime starts one: the next
// monitor ends both, and what the first has started, and the container runs on.
func TestKillMonitorUnderCommands(t *testing.T) {
	for _, at := range []string{"before", "after"} {
		t.Run(at, func(t *testing.T) { killUnderCommands(t, at) })
	}
}

func killUnderCommands(t *testing.T, at string) {
	nettest.RequireRoot(t)
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	stop, runtime := filepath.Join(t.TempDir(), "stop"), filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(runtime, fmt.Appendf(nil, gate, stop, runc), 0o755); err != nil {
		t.Fatal(err)
	}
	n := newNodeOn(t, runtime)
	s := n.start("ctr", "exec sleep 1000", nil)
	failed := make(chan error, 2)
	run := func(script string) {
		_, err := n.c.Exec(t.Context(), pod.ExecSpec{ID: "ctr", Cmd: []string{"/bin/busybox", "sh", "-c", script}})
		failed <- err
	}
	go run("sleep 771 & sleep 772")
	n.eventually("the command", func() bool { return n.runs("771") && n.runs("772") && !inUse(s.Bundle) })
	if err := os.WriteFile(stop+"-"+at, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	go run("sleep 773")
	n.eventually("the runtime", func() bool { _, err := os.Stat(stop + "-reached"); return err == nil })
	if err := syscall.Kill(n.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-failed; err == nil {
			t.Error("a command whose monitor was killed: success")
		}
	}
	n.eventually("the end of the command", func() bool { return !n.runs("771") && !n.runs("772") })
	if err := os.Remove(stop + "-" + at); err != nil {
		t.Fatal(err)
	}
	n.eventually("the end of the other", func() bool {
		left, _ := filepath.Glob(s.Bundle + "/exec-*")
		return len(left) == 0 && !inUse(s.Bundle) && !n.runs("773")
	})
	if !n.runs("1000") {
		t.Error("the container does not run")
	}
}

func (n *node) eventually(what string, is func() bool) {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// runs says whether "sleep" runs in one of our containers for so many seconds.
func (n *node) runs(seconds string) bool {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		args, _ := os.ReadFile(dir + "/cmdline")
		groups, _ := os.ReadFile(dir + "/cgroup")
		if bytes.Equal(args, []byte("sleep\x00"+seconds+"\x00")) && bytes.Contains(groups, []byte(n.parent)) {
			return true
		}
	}
	return false
}

// inUse says whether the OCI runtime still works on something in a directory.
func inUse(dir string) bool {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		if args, _ := os.ReadFile(file); bytes.Contains(args, []byte(dir+"/exec-")) {
			return true
		}
	}
	return false
}
