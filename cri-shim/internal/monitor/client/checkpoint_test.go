package client

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// frozen asks the kernel whether a container's cgroup is frozen.
func (n *node) frozen(id string) bool {
	n.t.Helper()
	for file, want := range map[string]string{
		"/sys/fs/cgroup/freezer" + n.parent + "/" + id + "/freezer.state": "FROZEN",
		"/sys/fs/cgroup" + n.parent + "/" + id + "/cgroup.freeze":         "1",
	} {
		if data, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(data)) == want
		}
	}
	n.t.Fatal("no freezer knows the container")
	return false
}

func (n *node) goesOn(id string) {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); n.frozen(id); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("container %s stays frozen", id)
		}
	}
}

// TestFreeze: all or none are frozen, and go on when asked, when we vanish, and when the monitor dies.
func TestFreeze(t *testing.T) {
	n := newNode(t)
	n.start("a", "exec sleep 1000", nil)
	n.start("b", "exec sleep 1000", nil)
	thaw, err := n.c.Freeze(t.Context(), []pod.ID{"a", "b"})
	if err != nil || !n.frozen("a") || !n.frozen("b") {
		t.Fatalf("frozen: %v", err)
	}
	for range 2 { // once more is nothing
		if err := thaw(); err != nil || n.frozen("a") || n.frozen("b") {
			t.Errorf("thawed: %v", err)
		}
	}
	if _, err := n.c.Freeze(t.Context(), []pod.ID{"a", "none"}); !errdefs.IsNotFound(err) {
		t.Errorf("with one that is not there: %v", err)
	}
	n.goesOn("a")

	if _, err := n.c.Freeze(t.Context(), []pod.ID{"a"}); err != nil || !n.frozen("a") {
		t.Fatalf("frozen: %v", err)
	}
	if err := n.c.Close(); err != nil { // as the kernel does when cri-shim is killed
		t.Fatal(err)
	}
	n.goesOn("a")

	// The next cri-shim's freeze and the thaw for the last one do not mix, and one request may say a name twice.
	for range 10 {
		if _, err := n.c.Freeze(t.Context(), []pod.ID{"b", "a", "b"}); err != nil || !n.frozen("a") || !n.frozen("b") {
			t.Fatalf("frozen: %v", err)
		}
		if err := n.c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.c.Freeze(t.Context(), []pod.ID{"a"}); err != nil || !n.frozen("a") {
		t.Fatalf("frozen: %v", err)
	}
	if err := syscall.Kill(n.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.goesOn("a")
	if err := n.c.Dump(t.Context(), "a", "images", "/work"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a dump into a relative path: %v", err)
	}
}
