package kubelet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPods runs pods of all kinds at once over one cri-shim, as a kubelet does.
func TestPods(t *testing.T) {
	w := newWorld(t, options{shim: "create_missing_mount_sources = true\n"})
	for name, test := range map[string]func(*testing.T, *world){
		"running":                     testRunning,
		"restart never":               testRestartNever,
		"restart on failure":          testRestartOnFailure,
		"restart always":              testRestartAlways,
		"a command that is not there": testNoCommand,
		"liveness exec":               testLivenessExec,
		"liveness exec timeout":       testLivenessExecTimeout,
		"liveness HTTP":               testLivenessHTTP,
		"liveness TCP":                testLivenessTCP,
		"readiness":                   testReadiness,
		"startup":                     testStartup,
		"init containers":             testInit,
		"init container fails":        testInitFails,
		"sidecar":                     testSidecar,
		"log rotation":                testLogRotation,
		"log of the one before":       testPreviousLog,
		"termination message":         testTerminationMessage,
		"termination message of logs": testTerminationMessageLogs,
		"host network":                testHostNetwork,
		"host port":                   testHostPort,
		"pods reach each other":       testPodToPod,
		"shared PID namespace":        testSharedPID,
		"host PID and IPC":            testHostPID,
		"empty directories":           testEmptyDir,
		"host paths":                  testHostPath,
		"missing host path":           testMissingHostPath,
		"downward API":                testDownward,
		"subpaths":                    testSubPath,
		"mount propagation":           testPropagation,
		"read-only mounts":            testReadOnlyMounts,
		"config maps":                 testConfigMap,
		"image volume":                testImageVolume,
		"resources":                   testResources,
		"out of memory":               testOutOfMemory,
		"end in order":                testGraceful,
		"end by force":                testForce,
		"stop signal":                 testStopSignal,
		"hooks":                       testHooks,
		"image that is not there":     testNoImage,
		"image policies":              testImagePolicies,
		"users and capabilities":      testSecurity,
		"root refused":                testRunAsNonRoot,
		"sysctls":                     testSysctls,
		"privileged":                  testPrivileged,
		"changed manifest":            testChange,
		"statistics":                  testStats,
		"exec by a stream":            testExec,
		"attach":                      testAttach,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
	t.Cleanup(func() { w.forgotten(t) })
}

// forgotten waits until the kubelet has removed the sandboxes of pods that are gone, which it does once a minute.
func (w *world) forgotten(t *testing.T) {
	t.Helper()
	w.eventually(t, "the kubelet removes sandboxes", 150*time.Second, func() string {
		pods, err := w.node.Crictl("pods", "-q")
		if err != nil {
			return err.Error()
		}
		return pods
	})
}

func testRunning(t *testing.T, w *world) {
	const name = "running"
	w.pod(t, name, "containers:\n"+shell("main", "echo hello; echo oops >&2"+forever, ""))
	p := w.running(t, name)
	c := p.Container("main")
	equal(t, "restarts", c.RestartCount, 0)
	if !strings.HasPrefix(p.Status.PodIP, w.node.Subnet+".") {
		t.Errorf("address %s, want one of %s.0/24", p.Status.PodIP, w.node.Subnet)
	}
	w.logged(t, name, "main", "hello\n", "oops\n")
	contains(t, "hostname", w.run(t, name, "main", "hostname"), staticName(name))
	contains(t, "/etc/hosts", w.run(t, name, "main", "cat /etc/hosts"), p.Status.PodIP+"\t"+staticName(name), "Kubernetes-managed")
	contains(t, "/etc/resolv.conf", w.run(t, name, "main", "cat /etc/resolv.conf"), "nameserver 192.0.2.53", "search podwright.test")
	contains(t, "address inside", w.run(t, name, "main", "ip -4 address show eth0"), p.Status.PodIP)
	id := strings.TrimPrefix(c.ContainerID, "cri-shim://")
	contains(t, "cgroup", w.run(t, name, "main", "cat /proc/1/cgroup"), w.node.CgroupParent+"/kubepods/besteffort/pod"+p.Metadata.UID+"/"+id)
	links, err := filepath.Glob("/var/log/containers/" + staticName(name) + "_default_main-" + id + ".log")
	if err != nil || len(links) != 1 {
		t.Fatalf("links to the log: %v, %v", links, err)
	}
	contains(t, "log file", file(links[0]), " stdout F hello\n", " stderr F oops\n")
	target, err := os.Readlink(links[0])
	must(t, err)
	equal(t, "log path", target, "/var/log/pods/default_"+staticName(name)+"_"+p.Metadata.UID+"/main/0.log")
}

func testRestartNever(t *testing.T, w *world) {
	w.pod(t, "never", never+"containers:\n"+shell("main", "exit 3", ""))
	p := w.ended(t, "never", "Failed")
	equal(t, "end", exit(t, p.Container("main").State), "3 Error")
	w.pod(t, "never-good", never+"containers:\n"+shell("main", "exit 0", ""))
	p = w.ended(t, "never-good", "Succeeded")
	equal(t, "end", exit(t, p.Container("main").State), "0 Completed")
	equal(t, "restarts", p.Container("main").RestartCount, 0)
}

func testRestartOnFailure(t *testing.T, w *world) {
	const name = "onfailure"
	w.pod(t, name, onFailure+"volumes: [{name: d, emptyDir: {}}]\ncontainers:\n"+
		shell("main", "echo x >>/d/tries; [ $(wc -l </d/tries) = 3 ]", "volumeMounts: [{name: d, mountPath: /d}]"))
	p := w.ended(t, name, "Succeeded")
	c := p.Container("main")
	equal(t, "restarts", c.RestartCount, 2)
	equal(t, "end", exit(t, c.State), "0 Completed")
	equal(t, "the end before", exit(t, c.LastState), "1 Error")
}

func testRestartAlways(t *testing.T, w *world) {
	const name = "always"
	w.pod(t, name, "containers:\n"+shell("main", "echo run", ""))
	p := w.until(t, name, "back-off", func(p Pod) bool {
		c := p.Container("main")
		return c.RestartCount > 0 && c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff"
	})
	contains(t, "message", p.Container("main").State.Waiting.Message, "back-off", "restarting failed container")
	p = w.until(t, name, "5 restarts", func(p Pod) bool { return p.Container("main").RestartCount >= 5 })
	equal(t, "the end before", exit(t, p.Container("main").LastState), "0 Completed")
	sandboxes, err := w.node.Crictl("pods", "-q", "--name", staticName(name))
	must(t, err)
	equal(t, "sandboxes", len(strings.Fields(sandboxes)), 1)
	containers, err := w.node.Crictl("ps", "-a", "-q", "--pod", sandboxes)
	must(t, err)
	if n := len(strings.Fields(containers)); n > 3 {
		t.Errorf("%d containers of one that restarts, want the last, the one before and perhaps the next", n)
	}
}

func testNoCommand(t *testing.T, w *world) {
	const name = "nocommand"
	w.pod(t, name, "containers:\n- {name: main, image: '"+image+"', command: [/no/such/program]}")
	p := w.until(t, name, "an end", func(p Pod) bool { return p.Container("main").LastState.Terminated != nil })
	end := p.Container("main").LastState.Terminated
	equal(t, "end", exit(t, p.Container("main").LastState), "128 StartError")
	contains(t, "message", end.Message, "/no/such/program", "no such file or directory")
}

func testChange(t *testing.T, w *world) {
	const name = "change"
	w.pod(t, name, "containers:\n"+shell("main", "echo one"+forever, ""))
	before := w.running(t, name)
	must(t, w.Apply(name, manifest(name, "containers:\n"+shell("main", "echo two"+forever, ""))))
	w.until(t, name, "made anew", func(p Pod) bool {
		return p.Metadata.UID != before.Metadata.UID && p.Container("main").Ready
	})
	w.logged(t, name, "main", "two\n")
}
