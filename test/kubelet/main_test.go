package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/test/isolate"
	"github.com/podwright/podwright/test/node"
)

const image = "podwright.test/busybox:latest"

var root string

func TestMain(m *testing.M) {
	isolate.Main(m, func() (err error) {
		flag.Parse()
		_ = flag.Set("test.parallel", "100") // pods share one kubelet, and their tests mostly wait
		root, err = filepath.Abs("../..")
		return err
	})
}

// world is a cri-shim and a kubelet over it.
type world struct {
	*Kubelet
	node *node.Node
	dir  string // of the host, for volumes and for what containers tell
}

// options are what a world has that is not usual. All may be empty.
type options struct {
	config  string // more of it for the kubelet
	shim    string // more of it for cri-shim: keys of no section
	runtime string // path of an OCI runtime
}

// newWorld starts both. At the end of the test the pods are withdrawn, the kubelet removes them, and nothing may be left.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	cache := root + "/.cache"
	n, err := node.New(node.Programs{Bin: root + "/bin", Tools: cache + "/tools", Registry: cache + "/registry"})
	if n == nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, n) })
	must(t, err)
	n.UseRuntime(o.runtime)
	must(t, prepend(n.Base+"/config.toml", o.shim))
	must(t, withHostPorts(n.NetDir+"/10.conflist"))
	w := &world{node: n, dir: n.Base + "/host"}
	must(t, os.Mkdir(w.dir, 0o777))
	w.Kubelet, err = New(n, Programs{Kubelet: cache + "/kubernetes/kubelet", Sample: root + "/conf/kubelet/10-cri-shim.conf", More: o.config})
	t.Cleanup(func() { w.stop(t) })
	t.Cleanup(func() {
		if w.process != nil {
			w.emptied(t)
		}
	})
	must(t, err)
	must(t, n.Start())
	must(t, w.Start())
	return w
}

func prepend(path, text string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte(text), data...), 0o644)
}

// withHostPorts lets the plugin have the host ports of pods.
func withHostPorts(conflist string) error {
	data, err := os.ReadFile(conflist)
	if err != nil {
		return err
	}
	changed := strings.Replace(string(data), `"capabilities": {`, `"capabilities": {"portMappings": true, `, 1)
	return os.WriteFile(conflist, []byte(changed), 0o644)
}

func stopNode(t *testing.T, n *node.Node) {
	t.Helper()
	left, err := n.Stop()
	if err != nil || !left.Empty() {
		t.Errorf("%v: %s\n%s", err, left, left.Details())
	}
}

func (w *world) stop(t *testing.T) {
	t.Helper()
	if dir := os.Getenv("KEEP_LOGS"); dir != "" {
		for name, text := range map[string]string{"kubelet.log": w.Log(), "cri-shim.log": w.node.ShimLog()} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	if err := w.Kubelet.Stop(); err != nil {
		t.Error(err)
	}
}

// emptied waits until the kubelet has removed the volumes and the cgroups of pods that are gone.
func (w *world) emptied(t *testing.T) {
	t.Helper()
	w.eventually(t, "the kubelet removes volumes and cgroups", 60*time.Second, func() string {
		left, _ := filepath.Glob(w.Root + "/pods/*")
		tops, err := Hierarchies()
		if err != nil {
			return err.Error()
		}
		for _, top := range tops {
			for _, pods := range []string{"/kubepods/pod*", "/kubepods/*/pod*"} {
				cgroups, _ := filepath.Glob(top + w.node.CgroupParent + pods)
				left = append(left, cgroups...)
			}
		}
		return strings.Join(left, " ")
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pod runs a static pod: its spec is YAML, beginning at the margin. The pod is withdrawn at the end of the test, and the
// kubelet must end it then.
func (w *world) pod(t *testing.T, name, spec string) {
	t.Helper()
	must(t, w.Apply(name, manifest(name, spec)))
	t.Cleanup(func() {
		if t.Failed() {
			w.explain(t, name)
		}
		w.withdraw(t, name)
	})
}

// withdraw takes a pod back, unless that has been done, and waits for its end.
func (w *world) withdraw(t *testing.T, name string) {
	t.Helper()
	if err := w.Withdraw(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	w.eventually(t, name+" ends", 60*time.Second, func() string {
		// A pod that was changed is not there for a moment before it comes back.
		if _, wanted, err := w.Pod(context.Background(), name); err != nil || wanted {
			return fmt.Sprintf("the kubelet wants it: %t, %v", wanted, err)
		}
		pods, err := w.RunningPods(context.Background())
		if err != nil {
			return err.Error()
		}
		if slices.ContainsFunc(pods, func(p Pod) bool { return p.Metadata.Name == staticName(name) }) {
			return "it still runs"
		}
		return ""
	})
}

// manifest gives the pod a short grace unless it says so itself: a shell as process 1 does not end by SIGTERM.
func manifest(name, spec string) string {
	if !strings.Contains(spec, "terminationGracePeriodSeconds:") {
		spec = "terminationGracePeriodSeconds: 1\n" + strings.TrimSpace(spec)
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %[1]s, labels: {app: %[1]s}, annotations: {team: tests}}\nspec:\n%[2]s\n",
		name, indent(spec, "  "))
}

func indent(s, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+by)
}

// shell is a container that runs a script; more is further members of it, as YAML that begins at the margin.
func shell(name, script, more string) string {
	line, _ := json.Marshal(script) // a string is always JSON
	return fmt.Sprintf("- name: %s\n  image: %s\n  command: [sh, -c, %s]\n%s\n", name, image, line, indent(more, "  "))
}

// forever keeps a container running, and lets it end by SIGTERM.
const forever = "; trap 'exit 0' TERM; while :; do sleep 0.1; done"

// hostDir makes a directory of the host for one pod, and the volume "host" of it.
func (w *world) hostDir(t *testing.T, pod string) (dir, volume string) {
	t.Helper()
	dir = filepath.Join(w.dir, pod)
	must(t, os.Mkdir(dir, 0o777))
	return dir, fmt.Sprintf("- {name: host, hostPath: {path: %s, type: Directory}}\n", dir)
}

const (
	mountHost = "volumeMounts: [{name: host, mountPath: /host}]\n"
	never     = "restartPolicy: Never\n"
	onFailure = "restartPolicy: OnFailure\n"
)

// explain shows what the kubelet and cri-shim have said of a pod.
func (w *world) explain(t *testing.T, name string) {
	t.Helper()
	p, _, err := w.Pod(context.Background(), name)
	t.Logf("status: %+v, %v", p.Status, err)
	for program, log := range map[string]string{"kubelet": w.Log(), "cri-shim": w.node.ShimLog()} {
		var about []string
		for line := range strings.Lines(log) {
			if strings.Contains(line, staticName(name)) || p.Metadata.UID != "" && strings.Contains(line, p.Metadata.UID) {
				about = append(about, line[:min(len(line), 600)])
			}
		}
		const most = 40
		t.Logf("%s:\n%s", program, strings.Join(about[max(0, len(about)-most):], "\n"))
	}
}

// eventually waits until f has nothing to complain of.
func (w *world) eventually(t *testing.T, what string, patience time.Duration, f func() string) {
	t.Helper()
	complaint := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if complaint = f(); complaint == "" {
			return
		}
	}
	t.Fatalf("%s: not after %s: %s", what, patience, complaint)
}

// until waits for a status of a pod that passes ok, and returns it.
func (w *world) until(t *testing.T, name, what string, ok func(Pod) bool) Pod {
	t.Helper()
	var p Pod
	w.eventually(t, name+": "+what, 60*time.Second, func() string {
		var found bool
		var err error
		if p, found, err = w.Pod(t.Context(), name); err != nil || !found {
			return fmt.Sprintf("found %t, %v", found, err)
		}
		if !ok(p) {
			return describe(p)
		}
		return ""
	})
	return p
}

// running waits for a pod whose containers are all ready.
func (w *world) running(t *testing.T, name string) Pod {
	t.Helper()
	return w.until(t, name, "all ready", func(p Pod) bool {
		return p.Status.Phase == "Running" && !slices.ContainsFunc(p.Status.ContainerStatuses, func(c Container) bool { return !c.Ready })
	})
}

// describe is a pod's status in a line.
func describe(p Pod) string {
	parts := []string{p.Status.Phase, p.Status.Reason, p.Status.Message}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		state := "none"
		switch s := c.State; {
		case s.Waiting != nil:
			state = fmt.Sprintf("waiting %+v", *s.Waiting)
		case s.Running != nil:
			state = fmt.Sprintf("running %+v", *s.Running)
		case s.Terminated != nil:
			state = fmt.Sprintf("terminated %+v", *s.Terminated)
		}
		parts = append(parts, fmt.Sprintf("[%s ready=%t restarts=%d %s]", c.Name, c.Ready, c.RestartCount, state))
	}
	return strings.Join(parts, " ")
}

// ended waits for the end of a pod and returns it.
func (w *world) ended(t *testing.T, name, phase string) Pod {
	t.Helper()
	return w.until(t, name, phase, func(p Pod) bool { return p.Status.Phase == phase })
}

// logs must be there.
func (w *world) logs(t *testing.T, pod, container string) string {
	t.Helper()
	text, err := w.Logs(t.Context(), pod, container, false)
	must(t, err)
	return text
}

// logged waits until a container that runs has logged all of this, and nothing else.
func (w *world) logged(t *testing.T, pod, container string, want ...string) {
	t.Helper()
	w.eventually(t, pod+": log of "+container, 60*time.Second, func() string {
		got, err := w.Logs(t.Context(), pod, container, false)
		missing := func(line string) bool { return !strings.Contains(got, line) }
		if err != nil || slices.ContainsFunc(want, missing) || len(got) != len(strings.Join(want, "")) {
			return fmt.Sprintf("%q, want %q, %v", got, want, err)
		}
		return ""
	})
}

// run must succeed.
func (w *world) run(t *testing.T, pod, container, command string) string {
	t.Helper()
	out, err := w.Run(t.Context(), pod, container, command)
	must(t, err)
	return out
}

// file is what a file of the host holds, "" when it is not there.
func file(path string) string {
	data, _ := os.ReadFile(path)
	return string(data)
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func contains(t *testing.T, what, got string, want ...string) {
	t.Helper()
	for _, s := range want {
		if !strings.Contains(got, s) {
			t.Errorf("%s: %q, want it to contain %q", what, got, s)
		}
	}
}

// exit is how a container has ended: its code and reason.
func exit(t *testing.T, s State) string {
	t.Helper()
	if s.Terminated == nil {
		t.Errorf("has not ended: %+v", s)
		return ""
	}
	return fmt.Sprintf("%d %s", s.Terminated.ExitCode, s.Terminated.Reason)
}
