package cluster

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/test/isolate"
	"github.com/podwright/podwright/test/leftovers"
)

var root string

func TestMain(m *testing.M) {
	if counting, err := Counting(); counting {
		if err != nil {
			fmt.Fprintln(os.Stderr, "cluster:", err)
			os.Exit(1)
		}
		return
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, "needs root, and CI must not skip it")
			os.Exit(1)
		}
		fmt.Println("needs root: skipped")
		return
	}
	code, done, err := isolate.Reexec()
	if err == nil && !done {
		root, err = filepath.Abs("../..")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
	if done {
		os.Exit(code)
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "100") // pods share one cluster, and their tests mostly wait
	os.Exit(m.Run())
}

// world is a cluster of two nodes, and what the kernel has of each before the pods of a test.
type world struct {
	*Cluster
	before map[*Node]leftovers.State
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cache := root + "/.cache"
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("podwright-cluster-%d", os.Getpid()))
	c, err := New(t.Context(), dir, Programs{
		Bin: root + "/bin", Tools: cache + "/tools", Kubernetes: cache + "/kubernetes", Names: cache + "/names", Conf: root + "/conf",
		LogLevel: "debug",
	})
	if c == nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { down(t, c) })
	must(t, err)
	w := &world{Cluster: c, before: map[*Node]leftovers.State{}}
	for range 2 {
		_, err := c.AddNode(t.Context(), CRIShim)
		must(t, err)
	}
	// What is made for the first pod of a node and stays: the bridge, tables, the images, cgroups of the kubelet.
	w.apply(t, workload("DaemonSet", "warm", "", shell("main", sleep, "ports: [{containerPort: 1, hostPort: 8099}]")))
	w.rolledOut(t, "daemonset/warm")
	w.kubectl(t, "delete", "daemonset", "warm")
	w.eventually(t, "the first pods are gone", time.Minute, func() string { return w.podsLeft(t) })
	for _, n := range c.Nodes {
		// The kubelet removes the cgroups of pods that it does not know any more in the background.
		w.eventually(t, "the cgroups of the first pods are gone", time.Minute, func() string {
			w.before[n], err = n.Count(t.Context())
			must(t, err)
			for cgroup := range w.before[n]["cgroups"] {
				if strings.HasPrefix(filepath.Base(cgroup), "pod") {
					return cgroup
				}
			}
			return ""
		})
	}
	return w
}

// down ends a cluster, keeps its logs where KEEP_LOGS says, and looks for what it has left on the machine.
func down(t *testing.T, c *Cluster) {
	t.Helper()
	if dir := os.Getenv("KEEP_LOGS"); dir != "" {
		logs, _ := filepath.Glob(c.Dir + "/*.log")
		more, _ := filepath.Glob(c.Dir + "/node*/*.log")
		for _, path := range append(logs, more...) {
			data, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, c.Dir+"/"), "/", "-")), data, 0o644))
		}
	}
	if err := c.Down(); err != nil {
		t.Errorf("down: %v", err)
	}
	left, err := Left(c.Dir, 10*time.Second)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := net.InterfaceByName(bridge); err == nil {
		t.Errorf("left behind: %s", bridge)
	}
}

// kubectl must succeed.
func (w *world) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.Kubectl(t.Context(), "", args...)
	must(t, err)
	return out
}

func (w *world) apply(t *testing.T, manifests ...string) {
	t.Helper()
	_, err := w.Kubectl(t.Context(), strings.Join(manifests, "\n---\n"), "apply", "-f", "-")
	must(t, err)
}

// remove withdraws objects at the end of a test.
func (w *world) remove(t *testing.T, objects ...string) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := w.Kubectl(context.Background(), "", append([]string{"delete", "--wait=false", "--ignore-not-found"}, objects...)...); err != nil {
			t.Error(err)
		}
	})
}

func (w *world) rolledOut(t *testing.T, object string) {
	t.Helper()
	if _, err := w.Kubectl(t.Context(), "", "rollout", "status", object, "--timeout=180s"); err != nil {
		t.Fatalf("%v\n%s", err, w.kubectl(t, "get", "pods,events", "-o", "wide"))
	}
}

// ready waits for pods by names.
func (w *world) ready(t *testing.T, pods ...string) {
	t.Helper()
	for i, p := range pods {
		pods[i] = "pod/" + p
	}
	if _, err := w.Kubectl(t.Context(), "", append([]string{"wait", "--for=condition=Ready", "--timeout=120s"}, pods...)...); err != nil {
		t.Fatalf("%v\n%s", err, w.kubectl(t, append([]string{"describe"}, pods...)...))
	}
}

// exec runs a shell's line in a pod.
func (w *world) exec(t *testing.T, pod, line string) string {
	t.Helper()
	return w.kubectl(t, "exec", pod, "--", "sh", "-c", line)
}

// pod is the part of a pod that tests look at.
type pod struct {
	Metadata struct {
		Name              string
		DeletionTimestamp *string
	}
	Spec   struct{ NodeName string }
	Status struct {
		Phase, PodIP string
	}
}

// pods are those of the default namespace with a label.
func (w *world) pods(t *testing.T, app string) []pod {
	t.Helper()
	var list struct{ Items []pod }
	query := ""
	if app != "" {
		query = "?labelSelector=app%3D" + app
	}
	must(t, w.API.Get(t.Context(), "/api/v1/namespaces/default/pods"+query, &list))
	return list.Items
}

func (w *world) podsLeft(t *testing.T) string {
	t.Helper()
	if left := w.pods(t, ""); len(left) > 0 {
		return fmt.Sprintf("%d pods, %s on %s among them", len(left), left[0].Metadata.Name, left[0].Spec.NodeName)
	}
	return ""
}

// clusterIP and port are those of a service; port is the node's.
func (w *world) service(t *testing.T, name string) (clusterIP string, port int) {
	t.Helper()
	var s struct {
		Spec struct {
			ClusterIP string
			Ports     []struct{ NodePort int }
		}
	}
	must(t, w.API.Get(t.Context(), "/api/v1/namespaces/default/services/"+name, &s))
	return s.Spec.ClusterIP, s.Spec.Ports[0].NodePort
}

// shell is a container of a busybox with a script, as YAML; more is further members of it.
func shell(name, script, more string) string {
	line, _ := json.Marshal(script) // a string is always JSON
	return fmt.Sprintf("- name: %s\n  image: %s\n  command: [sh, -c, %s]\n%s\n", name, Busybox, line, indent(more))
}

// web is a container that says by HTTP at 8080 and by UDP at 8081 in which pod it runs.
func web(more string) string {
	return fmt.Sprintf("- name: web\n  image: %s\n  args: [netexec, --http-port=8080, --udp-port=8081]\n  readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}\n%s\n",
		Agnhost, indent(more))
}

// sleep lets a container end by SIGTERM.
const sleep = "trap 'exit 0' TERM; while :; do sleep 0.1; done"

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ")
}

// workload is a Deployment or DaemonSet; spec is further members of its own, pod those of its pods, the containers last.
func workload(kind, name, spec, pod string) string {
	if strings.HasPrefix(pod, "- ") {
		pod = "containers:\n" + pod
	}
	return fmt.Sprintf("apiVersion: apps/v1\nkind: %[1]s\nmetadata: {name: %[2]s}\nspec:\n  selector: {matchLabels: {app: %[2]s}}\n%[3]s\n  template:\n    metadata: {labels: {app: %[2]s}}\n    spec:\n%[4]s\n",
		kind, name, indent(spec), indent(indent(indent(pod))))
}

// onNode is a pod that is started on a node without the scheduler; the containers come last in spec.
func onNode(node, name, spec string) string {
	if strings.HasPrefix(spec, "- ") {
		spec = "containers:\n" + spec
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %[1]s, labels: {app: %[1]s}}\nspec:\n  nodeName: %[2]s\n  terminationGracePeriodSeconds: 2\n%[3]s\n", name, node, indent(spec))
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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

func names(pods []pod) []string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Metadata.Name)
	}
	slices.Sort(out)
	return out
}
