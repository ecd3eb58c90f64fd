package server

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
)

// TestRoomFor: with cgroup v2 a memory limit below what is in use is refused, after what can be was reclaimed.
func TestRoomFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		v1      bool
		current string // "": the controller is missing
		limit   int64
		reclaim string
		refused bool
	}{
		{"less is in use", false, "4096\n", 4096, "", false},
		{"more is in use", false, "12288\n", 4096, "8192", true},
		{"no limit", false, "12288\n", -1, "", false},
		{"no controller", false, "", 4096, "", false},
		{"the kernel of v1 refuses by itself", true, "12288\n", 4096, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "pod", "c")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			files := map[string]string{"memory.reclaim": ""}
			if c.current != "" {
				files["memory.current"] = c.current
			}
			for name, content := range files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cg := cgroup{hierarchies{cgroupfs.Mounts{Unified: root}}, "/pod/c"}
			if c.v1 {
				cg = cgroup{hierarchies{cgroupfs.Mounts{V1: map[string]string{"memory": "/"}}}, dir}
			}
			err := cg.roomFor(specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &c.limit}})
			if errdefs.IsFailedPrecondition(err) != c.refused || (err != nil) != c.refused {
				t.Errorf("got %v, want refused: %t", err, c.refused)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "memory.reclaim")); err != nil || string(got) != c.reclaim {
				t.Errorf("asked to reclaim %q, %v, want %q", got, err, c.reclaim)
			}
		})
	}
	if err := (cgroup{hierarchies{cgroupfs.Mounts{Unified: t.TempDir()}}, "/c"}).roomFor(specs.LinuxResources{}); err != nil {
		t.Errorf("nothing about memory: %v", err)
	}
}
