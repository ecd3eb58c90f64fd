package kubelet

import (
	"strings"
	"testing"
)

func testSecurity(t *testing.T, w *world) {
	const name = "security"
	w.pod(t, name, never+`
securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroups: [4000], runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
volumes: [{name: d, emptyDir: {}}]
containers:
`+shell("main", "id -u; id -g; id -G; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /x 2>/dev/null || echo read-only; touch /d/x; stat -c %g /d/x", `
volumeMounts: [{name: d, mountPath: /d}]
securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}`))
	w.ended(t, name, "Succeeded")
	got := w.logs(t, name, "main")
	contains(t, "log", got, "1000\n3000\n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "read-only\n")
	if !strings.HasSuffix(got, "\n2000\n") {
		t.Errorf("a file has not the group of the volume: %q", got)
	}
	groups := strings.Split(got, "\n")[2]
	for _, g := range []string{"2000", "3000", "4000"} {
		contains(t, "groups", groups, g)
	}
}

func testRunAsNonRoot(t *testing.T, w *world) {
	w.pod(t, "nonroot", "securityContext: {runAsNonRoot: true}\ncontainers:\n"+shell("main", "true", ""))
	contains(t, "message", w.waits(t, "nonroot", "CreateContainerConfigError"), "image will run as root")
}

func testPrivileged(t *testing.T, w *world) {
	const name = "privileged"
	w.pod(t, name, never+"containers:\n"+shell("main",
		"mount -t tmpfs x /mnt 2>&1 || mount -t tmpfs x /tmp && echo mounts; ls /dev; [ -w /sys/kernel ] && echo sys; grep Seccomp: /proc/self/status",
		"securityContext: {privileged: true}"))
	w.ended(t, name, "Succeeded")
	contains(t, "log", w.logs(t, name, "main"), "mounts\n", "kmsg\n", "sys\n", "Seccomp:\t0\n")
}
