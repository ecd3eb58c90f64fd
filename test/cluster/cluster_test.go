package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The parts share one cluster. Those of the first group have pods of their own and run side by side; those after it change what
// others would notice.
func TestCluster(t *testing.T) {
	w := newWorld(t)
	t.Run("pods", func(t *testing.T) {
		for name, f := range map[string]func(*testing.T, *world){
			"services": testServices, "names": testNames, "hostPorts": testHostPorts, "stats": testStats,
			"exec": testExec, "logs": testLogs, "copy": testCopy, "portForward": testPortForward, "attach": testAttach,
			"volumes": testVolumes, "tokens": testTokens,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f(t, w)
			})
		}
	})
	t.Run("job", func(t *testing.T) { testJob(t, w) })
	t.Run("rollingUpdate", func(t *testing.T) { testRollingUpdate(t, w) })
	t.Run("drain", func(t *testing.T) { testDrain(t, w) })
}

func testJob(t *testing.T, w *world) {
	const completions = 200
	w.apply(t, fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata: {name: many}
spec:
  completions: %d
  parallelism: 40
  backoffLimit: 0
  template:
    metadata: {labels: {app: many}}
    spec:
      restartPolicy: Never
%s`, completions, indent(indent(indent("containers:\n"+shell("main", "echo done", ""))))))
	w.remove(t, "job/many")
	w.eventually(t, "the job is complete", 4*time.Minute, func() string {
		var job struct {
			Status struct{ Succeeded, Failed, Active int }
		}
		must(t, w.API.Get(t.Context(), "/apis/batch/v1/namespaces/default/jobs/many", &job))
		if job.Status.Failed > 0 {
			t.Fatalf("%d pods failed:\n%s", job.Status.Failed, w.kubectl(t, "get", "pods", "-l", "app=many", "-o", "wide"))
		}
		if job.Status.Succeeded != completions {
			return fmt.Sprintf("%+v", job.Status)
		}
		return ""
	})
	on := map[string]int{}
	for _, p := range w.pods(t, "many") {
		on[p.Spec.NodeName]++
	}
	if len(on) != len(w.Nodes) {
		t.Errorf("pods by node: %v, want some on each", on)
	}
}

// testDrain empties one node and then the other, and looks into the kernel for what is left there.
func testDrain(t *testing.T, w *world) {
	w.apply(t, workload("Deployment", "drained", "replicas: 20", "volumes: [{name: d, emptyDir: {medium: Memory}}]\ncontainers:\n"+
		web("volumeMounts: [{name: d, mountPath: /d}]\nports: [{containerPort: 8080}]")))
	first, second := w.Nodes[0], w.Nodes[1]
	w.apply(t, onNode(first.Name, "drained-port", web("ports: [{containerPort: 8080, hostPort: 8090}]")))
	w.rolledOut(t, "deployment/drained")
	w.ready(t, "drained-port")
	if !onEach(w.pods(t, "drained"), 1, first, second) {
		t.Errorf("no pods on one of the nodes: %s", w.kubectl(t, "get", "pods", "-o", "wide"))
	}
	w.kubectl(t, "drain", first.Name, "--force", "--delete-emptydir-data", "--timeout=120s")
	w.rolledOut(t, "deployment/drained")
	if !onEach(w.pods(t, "drained"), 20, second) {
		t.Errorf("want all pods on %s: %s", second.Name, w.kubectl(t, "get", "pods", "-o", "wide"))
	}
	w.nothingLeft(t, first)
	w.kubectl(t, "delete", "deployment", "drained")
	w.eventually(t, "all pods are gone", time.Minute, func() string { return w.podsLeft(t) })
	w.nothingLeft(t, second)
	w.kubectl(t, "uncordon", first.Name)
}

// onEach says whether each node has at least so many of the pods that are not on their way out.
func onEach(pods []pod, least int, nodes ...*Node) bool {
	on := map[string]int{}
	for _, p := range pods {
		if p.Metadata.DeletionTimestamp == nil {
			on[p.Spec.NodeName]++
		}
	}
	for _, n := range nodes {
		if on[n.Name] < least {
			return false
		}
	}
	return true
}

func (w *world) nothingLeft(t *testing.T, n *Node) {
	t.Helper()
	kernel := func(when string) {
		t.Helper()
		left, err := n.Since(t.Context(), w.before[n], time.Minute)
		must(t, err)
		if !left.Empty() {
			t.Errorf("%s, %s: %s\n%s", n.Name, when, left, left.Details())
		}
	}
	kernel("beside the records of the pods")
	w.eventually(t, "the kubelet has removed the records of "+n.Name+"'s pods", 3*time.Minute, func() string { // it does so each minute
		pods, err := n.Crictl(t.Context(), "pods", "-q")
		must(t, err)
		return pods
	})
	kernel("without them")
	leases, err := n.Command(t.Context(), root+"/bin/bridge-ipam", "leases").CombinedOutput()
	if err != nil || strings.Count(string(leases), "\n") != 1 {
		t.Errorf("%s: want no line below the head of the list of leases, %v:\n%s", n.Name, err, leases)
	}
}
