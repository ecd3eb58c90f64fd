package kubelet

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestNewest is a kubelet with what is not on by default, lists in streams and events that tell it of ends, over the newest
// OCI runtime where that has been built: what distributions have makes no user namespaces yet.
func TestNewest(t *testing.T) {
	o := options{config: "featureGates: {CRIListStreaming: true, EventedPLEG: true}\n", shim: "create_missing_mount_sources = false\n"}
	if runc := root + "/.cache/tools/runc"; exists(runc) {
		o.runtime = runc
	}
	w := newWorld(t, o)
	t.Run("streams", func(t *testing.T) { testStreams(t, w) })
	t.Run("user namespace", func(t *testing.T) { testUserNamespace(t, w) })
	t.Run("missing host path refused", func(t *testing.T) { testMissingHostPathRefused(t, w) })
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func testStreams(t *testing.T, w *world) {
	const name = "streams"
	w.pod(t, name, "volumes: [{name: d, emptyDir: {}}]\ncontainers:\n"+
		shell("main", "[ -e /d/again ] || { touch /d/again; exit 1; }"+forever, "volumeMounts: [{name: d, mountPath: /d}]"))
	p := w.until(t, name, "restarted", func(p Pod) bool { return p.Container("main").RestartCount == 1 && p.Container("main").Ready })
	id := strings.TrimPrefix(p.Container("main").ContainerID, "cri-shim://")
	must(t, w.Apply(name, manifest(name, "containers:\n"+shell("main", "echo new"+forever, ""))))
	w.eventually(t, "the event of the end", 30*time.Second, func() string {
		for line := range strings.Lines(w.Log()) {
			if strings.Contains(line, "Evented PLEG: requested pod relist after container termination") && strings.Contains(line, id) {
				return ""
			}
		}
		return "not in the log"
	})
	w.until(t, name, "made anew", func(now Pod) bool { return now.Metadata.UID != p.Metadata.UID && now.Container("main").Ready })
	for _, s := range []string{"Evented PLEG: received ContainerEventResponse with nil PodSandboxStatus", "falling back"} {
		if strings.Contains(w.Log(), s) {
			t.Errorf("the kubelet says %q", s)
		}
	}
}
