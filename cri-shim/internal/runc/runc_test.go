package runc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/proc"
)

// TestClassify has the words of runc 1.1, runc 1.5 and crun 1.8.
func TestClassify(t *testing.T) {
	r := Runtime{Root: "/state/runc"}
	for name, c := range map[string]struct {
		verb, text string
		want       error
	}{
		"runc: no such container":     {"delete", "container does not exist", errdefs.ErrNotFound},
		"crun: delete of nothing":     {"delete", "cannot open directory '/state/runc/c1': No such file or directory", errdefs.ErrNotFound},
		"crun: state of nothing":      {"state", "error opening file `/state/runc/c1/status`: No such file or directory", errdefs.ErrNotFound},
		"crun: something else is not": {"delete", "cannot open directory '/sys/fs/cgroup/c1': No such file or directory", nil},
		"stopped":                     {"exec", "cannot exec in a stopped container", errdefs.ErrFailedPrecondition},
		"no such command":             {"exec", `exec: "nope": executable file not found in $PATH`, ErrStart},
		"crun: no such command":       {"run", "executable file `nope` not found in $PATH: No such file or directory", ErrStart},
		"run with a missing path":     {"run", "error opening file `/state/runc/c1/status`: No such file or directory", ErrStart},
	} {
		err := r.classify(c.verb, proc.Status{Code: 1}, []string{c.text})
		if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if c.want == nil && (errors.Is(err, errdefs.ErrNotFound) || errors.Is(err, ErrStart)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLongMessage(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	err := Runtime{}.classify("exec", proc.Status{Code: 1}, []string{"exec: " + long, long})
	if !errors.Is(err, ErrStart) || len(err.Error()) > 10<<10 || !utf8.ValidString(err.Error()) {
		t.Errorf("%d bytes", len(err.Error()))
	}
}

// TestRuntimeThatLeavesAChild: a wrapper's child has inherited the log, and holds up nobody.
func TestRuntimeThatLeavesAChild(t *testing.T) {
	script := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho '{\"level\":\"error\",\"msg\":\"it broke\"}' >/proc/self/fd/3\nsleep 30 &\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	reaper, err := proc.NewReaper()
	if err != nil {
		t.Fatal(err)
	}
	defer reaper.Close()
	begin := time.Now()
	err = Runtime{Binary: script, Root: t.TempDir(), Reaper: reaper}.Delete(t.Context(), "c")
	if err == nil || !strings.Contains(err.Error(), "it broke") || time.Since(begin) > 15*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}
