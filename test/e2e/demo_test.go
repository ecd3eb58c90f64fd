package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const nothingLeft = "left behind: 0 processes, 0 namespaces, 0 links, 0 addresses, 0 mounts, 0 cgroups, 0 nftables objects"

// demo runs the demo, interrupts it after a while unless that is 0, and returns what it printed.
func demo(t *testing.T, interrupt time.Duration) (string, error) {
	t.Helper()
	requireRoot(t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(filepath.Dir(programs.Tools), "demo"),
		"--bin", programs.Bin, "--tools", programs.Tools, "--registry", programs.Registry)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if interrupt > 0 {
		timer := time.AfterFunc(interrupt, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }) // as a terminal does: the whole group
		defer timer.Stop()
	}
	out, err := cmd.CombinedOutput()
	if !strings.HasSuffix(strings.TrimSpace(string(out)), nothingLeft) {
		t.Errorf("the last line is another one:\n%s", tail(string(out)))
	}
	return string(out), err
}

// TestDemo: the story goes well, and nothing is left.
func TestDemo(t *testing.T) {
	if out, err := demo(t, 0); err != nil {
		t.Errorf("%v:\n%s", err, tail(out))
	}
}

// TestDemoInterrupted: Ctrl-C at any moment removes what there is by then.
func TestDemoInterrupted(t *testing.T) {
	for _, after := range []time.Duration{100, 250, 400, 600} {
		// On a fast machine a late signal comes when all is over.
		if out, err := demo(t, after*time.Millisecond); err == nil && after == 100 {
			t.Errorf("after %d ms it was through: %s", after, tail(out))
		}
	}
}
