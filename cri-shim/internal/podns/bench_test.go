package podns

import (
	"testing"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// BenchmarkPin is Pin and Unpin, without and with a user namespace.
func BenchmarkPin(b *testing.B) {
	nettest.RequireRoot(b)
	ids := pod.IDMapping{HostID: 300000, Length: 1000}
	for name, user := range map[string]*pod.UserNamespace{"plain": nil, "mapped": {UID: ids, GID: ids}} {
		b.Run(name, func(b *testing.B) {
			p := New(paths.Layout{Root: b.TempDir(), State: b.TempDir()})
			s := pod.Sandbox{ID: "s", Config: pod.SandboxConfig{Namespaces: pod.Namespaces{Network: pod.ModePod, PID: pod.ModeContainer, IPC: pod.ModePod, User: user}}}
			for b.Loop() {
				if err := p.Pin(b.Context(), s); err != nil {
					b.Fatal(err)
				}
				if err := p.Unpin("s"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
