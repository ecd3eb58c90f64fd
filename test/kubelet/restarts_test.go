package kubelet

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kept are pods that go on through every restart.
var kept = map[string]string{
	"plain": "containers:\n" + shell("main", "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo $i; sleep 0.1; done",
		"livenessProbe: {exec: {command: [cat, /etc/passwd]}, "+soon+"}\nreadinessProbe: {exec: {command: [cat, /etc/group]}, "+soon+"}"),
	"volumes": "volumes: [{name: d, emptyDir: {medium: Memory}}]\ncontainers:\n" + shell("main", "echo kept >/d/file"+forever, "volumeMounts: [{name: d, mountPath: /d}]"),
	"side": "initContainers:\n" + shell("first", "true", "") + shell("side", "true"+forever, "restartPolicy: Always") +
		"containers:\n" + shell("main", "true"+forever, ""),
	"hostnet":   "hostNetwork: true\ncontainers:\n" + shell("main", "true"+forever, ""),
	"sharedpid": "shareProcessNamespace: true\ncontainers:\n" + shell("main", "true"+forever, "") + shell("two", "true"+forever, ""),
	"done":      never + "containers:\n" + shell("main", "echo well; exit 0", ""),
	"failed":    never + "containers:\n" + shell("main", "exit 4", ""),
}

// TestRestarts ends the kubelet, cri-shim, and both, in every way. No container may notice.
func TestRestarts(t *testing.T) {
	w := newWorld(t, options{})
	for name, spec := range kept {
		w.pod(t, name, spec)
	}
	w.settled(t)
	before := w.picture(t)
	for _, c := range []struct {
		name string
		end  func() error
	}{
		{"kubelet ends", w.Terminate},
		{"kubelet is killed", w.Kill},
		{"cri-shim ends", w.node.Terminate},
		{"cri-shim is killed", w.node.Kill},
		{"cri-monitor is killed", w.node.KillMonitor},
		{"both are killed", func() error {
			if err := w.node.Kill(); err != nil {
				return err
			}
			return w.Kill()
		}},
		{"all three are killed", func() error {
			for _, kill := range []func() error{w.node.KillMonitor, w.node.Kill, w.Kill} {
				if err := kill(); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, c.end())
			time.Sleep(time.Second) // containers go on alone
			w.startWhatEnded(t)
			w.settled(t)
			time.Sleep(3 * time.Second) // a kubelet that takes something for gone acts within a few relists
			equal(t, "pods", w.picture(t), before)
			equal(t, "exec", w.run(t, "volumes", "main", "cat /d/file"), "kept\n")
		})
	}
	t.Run("no line of a log is lost", w.logIsWhole)
	t.Run("a container ends while cri-shim is down", w.endsUnseen)
	t.Run("a pod is withdrawn while the kubelet is down", w.withdrawnUnseen)
}

func (w *world) startWhatEnded(t *testing.T) {
	t.Helper()
	if w.node.ShimPID() == 0 {
		must(t, w.node.Start())
	}
	if w.process == nil {
		must(t, w.Start())
	}
}

// settled waits until every pod is what it is to be.
func (w *world) settled(t *testing.T) {
	t.Helper()
	for name := range kept {
		switch name {
		case "done":
			w.ended(t, name, "Succeeded")
		case "failed":
			w.ended(t, name, "Failed")
		default:
			w.running(t, name)
		}
	}
}

// picture is what may not change of all pods, a line each.
func (w *world) picture(t *testing.T) string {
	t.Helper()
	pods, err := w.Pods(t.Context())
	must(t, err)
	var lines []string
	for _, p := range pods {
		line := p.Metadata.Name + " " + p.Status.Phase
		if p.Status.Phase == "Running" {
			line += " " + p.Status.PodIP // a kubelet remembers that of a pod that has ended only until it restarts
		}
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			line += fmt.Sprintf(" %s %s %d ready=%t", c.Name, c.ContainerID, c.RestartCount, c.Ready)
			if r := c.State.Running; r != nil {
				line += " since " + r.StartedAt
			}
			if c.State.Terminated != nil {
				line += " " + exit(t, c.State) + " " + c.State.Terminated.FinishedAt
			}
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// logIsWhole looks at what a container has counted through all restarts.
func (w *world) logIsWhole(t *testing.T) {
	p, _, err := w.Pod(t.Context(), "plain")
	must(t, err)
	dir := "/var/log/pods/default_" + staticName("plain") + "_" + p.Metadata.UID + "/main"
	lines := readLogs(t, dir)
	if len(lines) < 50 {
		t.Fatalf("%d lines", len(lines))
	}
	first, err := strconv.Atoi(lines[0]) // the kubelet may have dropped a file already
	must(t, err)
	for i, line := range lines {
		if line != strconv.Itoa(first+i) {
			t.Fatalf("line %d is %q", first+i, line)
		}
	}
	t.Logf("%d lines through all restarts", len(lines))
}

// endsUnseen: the end is in the status, as it was, and the container is started anew once.
func (w *world) endsUnseen(t *testing.T) {
	before := w.running(t, "plain").Container("main")
	id := strings.TrimPrefix(before.ContainerID, "cri-shim://")
	pid, err := w.node.Crictl("inspect", "-o", "go-template", "--template", "{{.info.pid}}", id)
	must(t, err)
	n, err := strconv.Atoi(pid)
	must(t, err)
	must(t, w.node.Kill())
	must(t, syscall.Kill(n, syscall.SIGKILL))
	time.Sleep(time.Second)
	must(t, w.node.Start())
	p := w.until(t, "plain", "started anew", func(p Pod) bool { return p.Container("main").RestartCount == 1 && p.Container("main").Ready })
	c := p.Container("main")
	equal(t, "end", exit(t, c.LastState), "137 Error")
	if c.ContainerID == before.ContainerID {
		t.Error("it is the same container")
	}
}

// withdrawnUnseen: all that the kubelet then knows of the pod is what cri-shim lists.
func (w *world) withdrawnUnseen(t *testing.T) {
	must(t, w.Kill())
	must(t, w.Withdraw("side"))
	must(t, w.Start())
	w.withdraw(t, "side")
	w.eventually(t, "its directories are gone", 30*time.Second, func() string {
		f, err := os.Open(w.Root + "/pods")
		if err != nil {
			return err.Error()
		}
		defer f.Close()
		names, err := f.Readdirnames(-1)
		if err != nil {
			return err.Error()
		}
		for _, uid := range names {
			if strings.Contains(file(w.Root+"/pods/"+uid+"/etc-hosts"), staticName("side")) {
				return uid
			}
		}
		return ""
	})
	w.running(t, "plain")
}
