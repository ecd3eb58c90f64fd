package kubelet

import (
	"strings"
	"testing"
)

func testInit(t *testing.T, w *world) {
	const name = "init"
	dir, volume := w.hostDir(t, name)
	w.pod(t, name, never+"volumes:\n"+volume+"initContainers:\n"+
		shell("first", "sleep 1; echo first >>/host/order", mountHost)+shell("second", "echo second >>/host/order", mountHost)+
		"containers:\n"+shell("main", "echo main >>/host/order", mountHost))
	p := w.ended(t, name, "Succeeded")
	equal(t, "order", file(dir+"/order"), "first\nsecond\nmain\n")
	equal(t, "end of the first", exit(t, p.Container("first").State), "0 Completed")
}

func testInitFails(t *testing.T, w *world) {
	const name = "init-fails"
	w.pod(t, name, onFailure+"volumes: [{name: d, emptyDir: {}}]\ninitContainers:\n"+
		shell("first", "echo x >>/d/tries; [ $(wc -l </d/tries) = 2 ]", "volumeMounts: [{name: d, mountPath: /d}]")+
		"containers:\n"+shell("main", "true", ""))
	p := w.ended(t, name, "Succeeded")
	equal(t, "restarts", p.Container("first").RestartCount, 1)
	w.pod(t, name+"-never", never+"initContainers:\n"+shell("first", "exit 7", "")+"containers:\n"+shell("main", "true", ""))
	p = w.ended(t, name+"-never", "Failed")
	equal(t, "end", exit(t, p.Container("first").State), "7 Error")
	if p.Container("main").ContainerID != "" {
		t.Errorf("main was started: %s", describe(p))
	}
}

// A sidecar is there before the containers and ends after them.
func testSidecar(t *testing.T, w *world) {
	const name = "sidecar"
	dir, volume := w.hostDir(t, name)
	w.pod(t, name, "terminationGracePeriodSeconds: 10\n"+never+"volumes:\n"+volume+"initContainers:\n"+
		shell("side", "sleep 1; touch /tmp/up; echo side >>/host/order; trap 'echo side ends >>/host/order; exit 0' TERM; while :; do sleep 0.1; done",
			mountHost+"restartPolicy: Always\nstartupProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1, failureThreshold: 30}")+
		"containers:\n"+shell("main", "echo main >>/host/order; sleep 10; echo main ends >>/host/order", mountHost))
	w.until(t, name, "both run", func(p Pod) bool {
		return p.Container("side").State.Running != nil && p.Container("main").State.Running != nil
	})
	p := w.ended(t, name, "Succeeded")
	equal(t, "order", file(dir+"/order"), "side\nmain\nmain ends\nside ends\n")
	equal(t, "end of the sidecar", exit(t, p.Container("side").State), "0 Completed")

	w.pod(t, name+"-restarts", "initContainers:\n"+shell("side", "sleep 1", "restartPolicy: Always")+
		"containers:\n"+shell("main", "true"+forever, ""))
	p = w.until(t, name+"-restarts", "restarted", func(p Pod) bool { return p.Container("side").RestartCount >= 2 })
	equal(t, "restarts of main", p.Container("main").RestartCount, 0)
	if !strings.Contains(describe(p), "main") {
		t.Error(describe(p))
	}
}
