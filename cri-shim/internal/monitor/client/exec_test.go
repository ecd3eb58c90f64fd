package client

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

func (n *node) run(id, script string, timeout time.Duration) (pod.ExecResult, error) {
	return n.c.Exec(n.t.Context(), pod.ExecSpec{ID: pod.ID(id), Cmd: []string{"/bin/busybox", "sh", "-c", script}, Timeout: timeout})
}

// TestExecFlood: an answer has a largest size, beyond which the whole connection would be given up, with everybody's calls.
func TestExecFlood(t *testing.T) {
	n := newNode(t)
	n.start("c", "exec sleep 1000", nil)
	other := make(chan error, 1)
	go func() {
		_, err := n.run("c", "sleep 3", time.Minute)
		other <- err
	}()
	for _, script := range []string{"head -c 20000000 /dev/zero", "head -c 20000000 /dev/zero >&2", "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2"} {
		for _, timeout := range []time.Duration{0, time.Minute} {
			r, err := n.run("c", script+"; exit 3", timeout)
			if err != nil || r.ExitCode != 3 || len(r.Stdout)+len(r.Stderr) < 3<<20 {
				t.Errorf("%s within %s: code %d, %d and %d bytes, %v", script, timeout, r.ExitCode, len(r.Stdout), len(r.Stderr), err)
			}
		}
	}
	if err := <-other; err != nil {
		t.Errorf("another command at the same time: %v", err)
	}
}

// TestNothingIsAskedInVain: ttrpc sends the request of a call that is over already, and the monitor would act on it.
func TestNothingIsAskedInVain(t *testing.T) {
	n := newNode(t)
	n.start("c", "exec sleep 1000", nil)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.c.Kill(over, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	time.Sleep(200 * time.Millisecond)
	if procs, err := n.c.List(t.Context()); err != nil || len(procs) != 1 || procs[0].Exit != nil {
		t.Errorf("it was killed: %+v, %v", procs, err)
	}
}

// TestCallerThatLeaves: a command without a limit of time ends with who asked for it.
func TestCallerThatLeaves(t *testing.T) {
	n := newNode(t)
	n.start("c", "exec sleep 1000", nil)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(500*time.Millisecond, cancel)
	if _, err := n.c.Exec(ctx, pod.ExecSpec{ID: "c", Cmd: []string{"/bin/busybox", "sleep", "404"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		r, err := n.run("c", "ps | grep -c '[s]leep 404'", time.Minute)
		if err == nil && string(r.Stdout) == "0\n" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%q run, %v", r.Stdout, err)
		}
	}
}

// slowRuntime runs the real one, and ends later than it after an exec.
func slowRuntime(t *testing.T) string {
	nettest.RequireRoot(t)
	real, err := exec.LookPath("runc")
	script := filepath.Join(t.TempDir(), "slow-runc")
	err = errors.Join(err, os.WriteFile(script, []byte("#!/bin/sh\n"+real+` "$@"; code=$?
for arg; do case $arg in exec) sleep 1.5; esac; done
exit $code
`), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// TestTimeoutWithinTheRuntime: an OCI runtime that is killed on its way leaves a command that nobody knows.
func TestTimeoutWithinTheRuntime(t *testing.T) {
	n := newNodeOn(t, slowRuntime(t))
	n.start("c", "exec sleep 1000", nil)
	if _, err := n.run("c", "exec sleep 403", 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	r, err := n.run("c", "ps | grep -c '[s]leep 403'", 0)
	if err != nil || string(r.Stdout) != "0\n" {
		t.Errorf("after the timeout %q run, %v, %s", r.Stdout, err, r.Stderr)
	}
}

// TestWatchEndsAlone: others go on using the connection; cri-shim lets short work end after it has stopped watching.
func TestWatchEndsAlone(t *testing.T) {
	n := newNode(t)
	n.start("c", "exec sleep 1000", nil)
	done := make(chan error, 1)
	go func() {
		_, err := n.run("c", "sleep 2", time.Minute)
		done <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := n.c.Watch(ctx, func(pod.ID, pod.Exit) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("watch: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
