package server

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
)

// TestOOMOfACgroupThatIsGone: systemd removes a scope, and with it the count of kills, before anybody could read it. The parent's count
// tells, and tells it of one container only.
func TestOOMOfACgroupThatIsGone(t *testing.T) {
	top := t.TempDir()
	h := hierarchies{cgroupfs.Mounts{Unified: top}}
	count := func(path string, kills int) {
		t.Helper()
		if err := os.MkdirAll(top+path, 0o755); err != nil {
			t.Fatal(err)
		}
		// Put in place at once, as the kernel would show it.
		text := fmt.Sprintf("low 0\nmax 7\noom 1\noom_kill %d\noom_group_kill 0\n", kills)
		if err := os.WriteFile(filepath.Join(top+path, "memory.events"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(path string) {
		t.Helper()
		if err := os.RemoveAll(top + path); err != nil {
			t.Fatal(err)
		}
	}
	w, err := newOOMWatch(h)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	scope := func(name string) cgroup { return cgroup{h: h, path: "/pod.slice/" + name} }
	begin := func(names ...string) {
		t.Helper()
		for _, name := range names {
			count("/pod.slice/"+name, 0)
			if err := w.add(scope(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect := func(name string, sigkill, want bool) {
		t.Helper()
		if got := w.forget(scope(name), sigkill); got != want {
			t.Errorf("%s: killed for want of memory: %t, want %t", name, got, want)
		}
	}

	count("/pod.slice", 3) // of containers before
	begin("a", "b", "c", "d", "e")
	gone("/pod.slice/a")
	expect("a", true, false) // by somebody else
	count("/pod.slice", 4)
	gone("/pod.slice/b")
	expect("b", true, true)
	gone("/pod.slice/c")
	expect("c", true, false) // that one was b
	count("/pod.slice/d", 1)
	count("/pod.slice", 5)
	expect("d", true, true) // by its own count, while it lasts
	gone("/pod.slice/e")
	expect("e", true, false)

	begin("f", "g")
	count("/pod.slice", 6)
	gone("/pod.slice/f")
	expect("f", false, false) // it ended by itself
	gone("/pod.slice/g")
	expect("g", true, true)
	begin("h")
	gone("/pod.slice/h")
	expect("h", true, false)
	if err := w.add(scope("never")); err != nil {
		t.Fatal(err)
	}
	expect("never", true, false) // what the parent counted before is not its
	if len(w.seen) != 0 {
		t.Errorf("not forgotten: %v", w.seen)
	}
}
