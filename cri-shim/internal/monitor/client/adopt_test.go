package client

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func (n *node) killMonitor() {
	n.t.Helper()
	if err := syscall.Kill(n.pid(), syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
}

// TestHandlerThatIsNoMore: a container outlives the configuration that it was started by.
func TestHandlerThatIsNoMore(t *testing.T) {
	n := newNode(t)
	at := slices.Index(n.c.opt.Args, "--runtime") + 1
	n.c.mu.Lock()
	was := n.c.opt.Args
	n.c.opt.Args = append(slices.Clone(was), "--runtime", "former"+was[at])
	n.c.mu.Unlock()
	n.killMonitor() // the next one is started at once
	n.awaitMonitor()
	s := n.bundle("c", "trap 'exit 7' TERM; while :; do sleep 0.1; done", nil)
	s.Handler = "former"
	if _, err := n.c.Start(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	n.c.mu.Lock()
	n.c.opt.Args = was
	n.c.mu.Unlock()
	n.killMonitor()
	n.awaitMonitor()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if procs, err := n.c.List(ctx); err != nil || len(procs) != 1 || procs[0].Exit != nil {
		t.Errorf("listed: %+v, %v", procs, err)
	}
	if r, err := n.c.Exec(ctx, pod.ExecSpec{ID: "c", Cmd: []string{"/bin/busybox", "true"}}); err != nil || r.ExitCode != 0 {
		t.Errorf("exec: %+v, %v", r, err)
	}
	if err := n.c.Signal(ctx, "c", "TERM"); err != nil {
		t.Error(err)
	}
	if e := n.exit("c"); e.Lost == (e.Code == 7) {
		t.Errorf("it ended with %+v", e)
	}
	if err := n.c.Delete(ctx, "c"); err != nil {
		t.Error(err)
	}
}

// awaitMonitor waits until one answers.
func (n *node) awaitMonitor() {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := n.c.List(n.t.Context()); err == nil {
			return
		} else if time.Now().After(end) {
			n.t.Fatal(err)
		}
	}
}

// TestKillMonitorAtAnEnd: an end is on disk at once, not only when the last output has been logged.
func TestKillMonitorAtAnEnd(t *testing.T) {
	n := newNode(t)
	s := n.start("c", "sleep 1; echo last; exit 7", nil)
	// Somebody else holds the container's output open, so that logging waits for more.
	held, err := os.OpenFile(filepath.Join(n.layout.Bundle("c"), "stdout"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(n.layout.Monitor(), "exits/c")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if procs, err := n.c.List(t.Context()); err != nil || len(procs) != 1 || procs[0].Exit != nil {
		t.Errorf("its end is told before its output is logged: %+v, %v", procs, err)
	}
	n.killMonitor()
	_ = held.Close()
	if e := n.exit("c"); e.Code != 7 || e.Lost {
		t.Errorf("it ended with %+v", e)
	}
	if got := logged(t, s.LogPath, "stdout"); string(got) != "last\n" {
		t.Errorf("logged %q", got)
	}
}
