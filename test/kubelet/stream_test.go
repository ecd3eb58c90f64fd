package kubelet

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// exitCode is what a status says of a command's end.
func exitCode(t *testing.T, status string) string {
	t.Helper()
	var s struct {
		Status  string
		Details struct {
			Causes []struct{ Reason, Message string }
		}
	}
	must(t, json.Unmarshal([]byte(status), &s))
	for _, c := range s.Details.Causes {
		if c.Reason == "ExitCode" {
			return c.Message
		}
	}
	return s.Status
}

func testExec(t *testing.T, w *world) {
	const name = "exec"
	w.pod(t, name, "containers:\n"+shell("main", "true"+forever, ""))
	w.running(t, name)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got, err := w.Exec(ctx, name, "main", "sh", "-c", "echo out; echo err >&2; exit 7")
	must(t, err)
	equal(t, "output", got.Stdout, "out\n")
	equal(t, "errors", got.Stderr, "err\n")
	equal(t, "exit code", exitCode(t, got.Status), "7")
	got, err = w.Exec(ctx, name, "main", "head", "-c", "3000000", "/dev/zero")
	must(t, err)
	equal(t, "bytes", len(got.Stdout), 3000000)
	equal(t, "end", exitCode(t, got.Status), "Success")
}

func testAttach(t *testing.T, w *world) {
	const name = "attach"
	w.pod(t, name, never+"containers:\n"+shell("main", "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; sleep 0.1; done", ""))
	w.running(t, name)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := w.Attach(ctx, name, "main")
	must(t, err)
	lines := strings.Split(strings.TrimSpace(got.Stdout), "\n")
	equal(t, "the last line", lines[len(lines)-1], "line 200")
	if len(lines) < 10 {
		t.Errorf("%d lines, want those of some seconds", len(lines))
	}
}
