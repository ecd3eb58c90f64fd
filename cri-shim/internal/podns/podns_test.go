package podns

import (
	"os"
	"testing"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestMainThreadStays: it never dies, and must not hold the namespaces of pods that are gone.
func TestMainThreadStays(t *testing.T) {
	nettest.RequireRoot(t)
	p := New(paths.Layout{Root: t.TempDir(), State: t.TempDir()})
	s := pod.Sandbox{ID: "x", Config: pod.SandboxConfig{Namespaces: pod.Namespaces{Network: pod.ModePod, IPC: pod.ModePod}}}
	for i := range 30 {
		before := namespaces(t)
		if err := p.Pin(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if p.NetNS("x") == "" {
			t.Error("nothing was pinned")
		}
		if err := p.Unpin("x"); err != nil {
			t.Fatal(err)
		}
		if after := namespaces(t); after != before {
			t.Fatalf("after %d pods the main thread is in %s, not %s", i+1, after, before)
		}
	}
}

// namespaces are those of the main thread, which /proc/self shows.
func namespaces(t *testing.T) (all string) {
	t.Helper()
	for _, k := range []kind{network, ipc, uts} {
		link, err := os.Readlink("/proc/self/ns/" + k.name)
		if err != nil {
			t.Fatal(err)
		}
		all += link + " "
	}
	return all
}
