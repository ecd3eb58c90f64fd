package kubelet

import (
	"os"
	"testing"
	"time"
)

// restartedOnce waits for a restart by a probe and returns how the first run has ended.
func (w *world) restartedOnce(t *testing.T, name string) Container {
	t.Helper()
	p := w.until(t, name, "a restart", func(p Pod) bool { return p.Container("main").RestartCount > 0 })
	return p.Container("main")
}

const soon = "periodSeconds: 1, failureThreshold: 2"

func testLivenessExec(t *testing.T, w *world) {
	const name = "live-exec"
	w.pod(t, name, "containers:\n"+shell("main", "touch /tmp/alive; (sleep 4; rm /tmp/alive) &"+forever[1:],
		"livenessProbe: {exec: {command: [cat, /tmp/alive]}, "+soon+"}"))
	equal(t, "before", w.running(t, name).Container("main").RestartCount, 0)
	equal(t, "end", exit(t, w.restartedOnce(t, name).LastState), "0 Completed") // it ended by SIGTERM, as it should
}

// A probe that hangs is a failed one, and its process is gone.
func testLivenessExecTimeout(t *testing.T, w *world) {
	const name = "live-timeout"
	w.pod(t, name, "containers:\n"+shell("main", "true"+forever,
		"livenessProbe: {exec: {command: [sleep, '777']}, timeoutSeconds: 1, "+soon+"}"))
	w.restartedOnce(t, name)
}

func testLivenessHTTP(t *testing.T, w *world) {
	const name = "live-http"
	w.pod(t, name, "containers:\n"+shell("main", "mkdir /www; touch /www/healthz; httpd -p 8080 -h /www; sleep 4; rm /www/healthz"+forever,
		"livenessProbe: {httpGet: {path: /healthz, port: 8080}, initialDelaySeconds: 1, "+soon+"}"))
	equal(t, "before", w.running(t, name).Container("main").RestartCount, 0)
	w.restartedOnce(t, name)
}

func testLivenessTCP(t *testing.T, w *world) {
	const name = "live-tcp"
	w.pod(t, name, "containers:\n"+shell("main", "timeout 5 httpd -f -p 9000 -h /tmp"+forever,
		"livenessProbe: {tcpSocket: {port: 9000}, initialDelaySeconds: 1, "+soon+"}"))
	equal(t, "before", w.running(t, name).Container("main").RestartCount, 0)
	w.restartedOnce(t, name)
}

func testReadiness(t *testing.T, w *world) {
	const name = "ready"
	dir, volume := w.hostDir(t, name)
	w.pod(t, name, "volumes:\n"+volume+"containers:\n"+shell("main", "true"+forever,
		mountHost+"readinessProbe: {exec: {command: [cat, /host/ready]}, periodSeconds: 1, failureThreshold: 1}"))
	w.until(t, name, "running", func(p Pod) bool { return p.Container("main").State.Running != nil })
	time.Sleep(2 * time.Second)
	p, _, err := w.Pod(t.Context(), name)
	must(t, err)
	equal(t, "ready before it is", p.Container("main").Ready, false)
	must(t, os.WriteFile(dir+"/ready", nil, 0o644))
	w.running(t, name)
	must(t, os.Remove(dir+"/ready"))
	p = w.until(t, name, "not ready", func(p Pod) bool { return !p.Container("main").Ready })
	equal(t, "restarts", p.Container("main").RestartCount, 0)
}

// Until the startup probe has succeeded there are no others: the liveness probe would fail.
func testStartup(t *testing.T, w *world) {
	const name = "startup"
	w.pod(t, name, "containers:\n"+shell("main", "sleep 5; touch /tmp/up"+forever, `
startupProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1, failureThreshold: 30}
livenessProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1, failureThreshold: 1}`))
	w.until(t, name, "running, not started", func(p Pod) bool {
		c := p.Container("main")
		return c.State.Running != nil && c.Started != nil && !*c.Started && !c.Ready
	})
	p := w.running(t, name)
	equal(t, "started", *p.Container("main").Started, true)
	equal(t, "restarts", p.Container("main").RestartCount, 0)
}
