package crishim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRuntimeFeatures(t *testing.T) {
	const linux = `"linux": {"namespaces": ["cgroup", "user"], "mountExtensions": {"idmap": {"enabled": true}}}`
	for name, c := range map[string]struct {
		out  string
		want runtimeFeatures
	}{
		"runc 1.5":      {`{"mountOptions": ["bind", "rro"], ` + linux + `}`, runtimeFeatures{recursiveReadOnly: true, idMap: true}},
		"runc 1.1":      {`{"mountOptions": ["bind", "rro"], "linux": {"namespaces": ["user"]}}`, runtimeFeatures{recursiveReadOnly: true}},
		"no extensions": {`{"linux": {"mountExtensions": {"idmap": {}}}}`, runtimeFeatures{}},
		"no namespaces": {`{"linux": {"mountExtensions": {"idmap": {"enabled": true}}}}`, runtimeFeatures{}},
		"another text":  {`unknown command features`, runtimeFeatures{}},
	} {
		if got := readFeatures([]byte(c.out)); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := askRuntime(t.Context(), "/bin/false"); got != (runtimeFeatures{}) {
		t.Errorf("a runtime without the command: %+v", got)
	}
}

// TestRuntimeThatLeavesAChild: a wrapper's child holds the answer open, and not the start of cri-shim.
func TestRuntimeThatLeavesAChild(t *testing.T) {
	file := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nsleep 60 &\necho runc version 1.2.8\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if got := runtimeWarning(t.Context(), file); !strings.Contains(got, "runc 1.2.8") || time.Since(begin) > 20*time.Second {
		t.Errorf("%q after %s", got, time.Since(begin))
	}
}
