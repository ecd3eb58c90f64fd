package kubelet

import (
	"os"
	"testing"
	"time"
)

func testGraceful(t *testing.T, w *world) {
	const name = "graceful"
	dir, volume := w.hostDir(t, name)
	w.pod(t, name, "terminationGracePeriodSeconds: 20\nvolumes:\n"+volume+"containers:\n"+
		shell("main", "trap 'echo term >>/host/order; sleep 1; echo end >>/host/order; exit 0' TERM; while :; do sleep 0.1; done",
			mountHost+"lifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook >>/host/order; sleep 1; echo hook ends >>/host/order']}}}"))
	w.running(t, name)
	w.withdraw(t, name)
	equal(t, "order", file(dir+"/order"), "hook\nhook ends\nterm\nend\n")
}

// appears waits for a file by which a script says how far it is: a container is ready before its traps are.
func (w *world) appears(t *testing.T, path string) {
	t.Helper()
	w.eventually(t, path+" appears", 10*time.Second, func() string {
		if _, err := os.Stat(path); err != nil {
			return err.Error()
		}
		return ""
	})
}

// What does not end by SIGTERM, as a process 1 that does not handle it, has its grace and is then killed.
func testForce(t *testing.T, w *world) {
	const name = "force"
	w.pod(t, name, "terminationGracePeriodSeconds: 3\ncontainers:\n"+shell("main", "exec sleep 1000", ""))
	w.running(t, name)
	begin := time.Now()
	w.withdraw(t, name)
	if grace := time.Since(begin); grace < 3*time.Second {
		t.Errorf("killed after %s, want its grace of 3 s", grace)
	}
}

func testStopSignal(t *testing.T, w *world) {
	const name = "stopsignal"
	dir, volume := w.hostDir(t, name)
	w.pod(t, name, "os: {name: linux}\nterminationGracePeriodSeconds: 20\nvolumes:\n"+volume+"containers:\n"+
		shell("main", "trap 'echo USR1 >/host/got; exit 0' USR1; touch /host/up; while :; do sleep 0.1; done", mountHost+"lifecycle: {stopSignal: SIGUSR1}"))
	w.running(t, name)
	w.appears(t, dir+"/up")
	w.withdraw(t, name)
	equal(t, "signal", file(dir+"/got"), "USR1\n")
}

func testHooks(t *testing.T, w *world) {
	const name = "hooks"
	dir, volume := w.hostDir(t, name)
	w.pod(t, name, "volumes:\n"+volume+"containers:\n"+shell("main", "true"+forever,
		mountHost+"lifecycle: {postStart: {exec: {command: [sh, -c, 'echo started >/host/post']}}, preStop: {sleep: {seconds: 1}}}"))
	w.running(t, name)
	equal(t, "after the start", file(dir+"/post"), "started\n")
	w.withdraw(t, name)

	w.pod(t, name+"-fail", "containers:\n"+shell("main", "true"+forever, "lifecycle: {postStart: {exec: {command: [sh, -c, 'echo no luck; exit 9']}}}"))
	w.until(t, name+"-fail", "the hook's error", func(p Pod) bool {
		s := p.Container("main").State.Waiting
		return s != nil && (s.Reason == "PostStartHookError" || s.Reason == "CrashLoopBackOff")
	})
}
