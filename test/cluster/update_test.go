package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A deployment is replaced under load, again and again, while a node's cri-shim is killed every five seconds. No request fails.
func testRollingUpdate(t *testing.T, w *world) {
	const updates = 3
	w.apply(t, workload("Deployment", "rolling", "replicas: 10\nstrategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 2}}",
		// kube-proxy needs its time to hear that a pod is about to end: the endpoint controller tries again after 1, 2, 4, 8 s when it
		// finds its own cache out of date.
		web("lifecycle: {preStop: {sleep: {seconds: 15}}}\nenv: [{name: UPDATE, value: '0'}]")),
		"apiVersion: v1\nkind: Service\nmetadata: {name: rolling}\nspec: {type: NodePort, selector: {app: rolling}, ports: [{port: 80, targetPort: 8080}]}")
	w.remove(t, "deployment/rolling", "service/rolling")
	w.rolledOut(t, "deployment/rolling")
	ip, port := w.service(t, "rolling")
	w.eventually(t, "both nodes serve it", time.Minute, func() string {
		for _, n := range w.Nodes {
			if _, err := get(t.Context(), fmt.Sprintf("http://%s:%d/hostname", n.IP, port)); err != nil {
				return err.Error()
			}
		}
		return ""
	})
	l := startLoad(t, w, port)
	clients := w.askingPods(t, "http://"+ip+"/hostname")
	k := startKiller(t, w.Nodes[0])
	for i := range updates {
		w.kubectl(t, "set", "env", "deployment/rolling", fmt.Sprintf("UPDATE=%d", i+1))
		w.rolledOut(t, "deployment/rolling")
	}
	kills := k()
	l.stop(t)
	for _, client := range clients {
		// The kubelet may not have noticed yet that cri-shim is back.
		w.eventually(t, client+" is told to end", time.Minute, func() string {
			if _, err := w.Kubectl(t.Context(), "", "exec", client, "--", "touch", "/end"); err != nil {
				return err.Error()
			}
			return ""
		})
		w.kubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/"+client)
		var asked int
		log := w.kubectl(t, "logs", client)
		if _, err := fmt.Sscanf(log, "asked %d\n", &asked); err != nil || asked < 100 {
			t.Errorf("%s: %s, %v", client, log, err)
		}
		t.Logf("%s asked %d times", client, asked)
	}
	t.Logf("%d requests from outside, cri-shim of %s killed %d times", l.asked.Load(), w.Nodes[0].Name, kills)
	if kills < 3 {
		t.Errorf("cri-shim was killed %d times only", kills)
	}
	for _, p := range w.restarts(t, "rolling") {
		t.Errorf("a container was restarted: %s", p)
	}
}

// askingPods are a pod on each node that asks at a URL until it has a file /end, and writes when it got no answer.
func (w *world) askingPods(t *testing.T, url string) []string {
	t.Helper()
	script := "n=0; while [ ! -e /end ]; do n=$((n+1)); wget -q -O /dev/null " + url + " || echo number $n failed at $(date); sleep 0.02; done; echo asked $n"
	var pods []string
	for _, n := range w.Nodes {
		name := "asking-" + n.Name
		w.apply(t, onNode(n.Name, name, "restartPolicy: Never\ncontainers:\n"+shell("main", script, "")))
		w.remove(t, "pod/"+name)
		pods = append(pods, name)
	}
	w.ready(t, slices.Clone(pods)...)
	return pods
}

// load asks the service at the port of every node.
type load struct {
	targets []*target
	asked   atomic.Int64
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// target is a node's port of the service.
type target struct {
	node   *Node
	port   int
	missed untranslated
	mu     sync.Mutex
	faults []error // guarded by mu
}

func startLoad(t *testing.T, w *world, port int) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel}
	for _, n := range w.Nodes {
		missed := countUntranslated(t, n, "update", fmt.Sprintf("tcp dport %d tcp flags & (syn | ack) == syn", port))
		target := &target{node: n, port: port, missed: missed}
		l.targets = append(l.targets, target)
		for range 2 {
			l.wg.Go(func() { l.ask(ctx, target) })
		}
	}
	return l
}

func (l *load) ask(ctx context.Context, to *target) {
	for ctx.Err() == nil {
		_, err := get(ctx, fmt.Sprintf("http://%s:%d/hostname", to.node.IP, to.port))
		l.asked.Add(1)
		if err != nil && ctx.Err() == nil {
			to.mu.Lock()
			to.faults = append(to.faults, fmt.Errorf("%s: %w", time.Now().Format(time.TimeOnly), err))
			to.mu.Unlock()
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop fails the test for each request without an answer that was on its way to a pod.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	l.wg.Wait()
	if n := l.asked.Load(); n < 100 {
		t.Errorf("%d requests only", n)
	}
	for _, to := range l.targets {
		missed := to.missed.count(t)
		if missed > 3 {
			t.Errorf("%s: %d connections were not sent on to a pod", to.node.Name, missed)
		}
		for _, err := range to.faults {
			if missed > 0 && errors.Is(err, syscall.ECONNREFUSED) {
				missed--
				t.Logf("%s itself refused, its rules were being replaced: %v", to.node.Name, err)
				continue
			}
			t.Errorf("%s: %v", to.node.Name, err)
		}
	}
}

// untranslated counts on a node the packets to an address of a service that kube-proxy's rules did not send on to a pod.
type untranslated struct {
	node  *Node
	table string
}

// countUntranslated counts what the nftables expression matches after DNAT. While a transaction of nftables takes effect, Linux may
// look up a set of the old rules by the new generation and find nothing: on 6.18 one of about 200 transactions lost a connection out of
// 70 beginning in it, with rules like kube-proxy's and no pod near them. The node, where nothing listens, then refuses it.
func countUntranslated(t *testing.T, n *Node, name, match string) untranslated {
	t.Helper()
	u := untranslated{n, "untranslated-" + name}
	must(t, n.Run("nft", fmt.Sprintf(`table ip %s {
	counter hits { }
	chain after_dnat { type filter hook prerouting priority dstnat + 10; %s counter name hits; }
}`, u.table, match)))
	t.Cleanup(func() { must(t, n.Run("nft", "delete", "table", "ip", u.table)) })
	return u
}

func (u untranslated) count(t *testing.T) int {
	t.Helper()
	out, err := u.node.Command(t.Context(), "nft", "list", "counter", "ip", u.table, "hits").Output()
	must(t, err)
	_, packets, found := strings.Cut(string(out), "packets ")
	var count int
	if _, err := fmt.Sscan(packets, &count); !found || err != nil {
		t.Fatalf("no counter of packets: %v: %s", err, out)
	}
	return count
}

// startKiller kills the node's cri-shim every five seconds, and starts it anew as an init system would. What it returns ends that
// and says how often it was.
func startKiller(t *testing.T, n *Node) func() int {
	t.Helper()
	stop := make(chan struct{})
	kills := make(chan int, 1)
	go func() {
		count := 0
		defer func() { kills <- count }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Second):
			}
			count++
			if err := errors.Join(n.KillRuntime(), n.StartRuntime(context.WithoutCancel(t.Context()))); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	return func() int {
		close(stop)
		return <-kills
	}
}

// restarts names the containers that were started more than once.
func (w *world) restarts(t *testing.T, app string) []string {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				ContainerStatuses []struct {
					RestartCount int
					LastState    struct{ Terminated *ended }
				}
			}
		}
	}
	must(t, w.API.Get(t.Context(), "/api/v1/namespaces/default/pods?labelSelector=app%3D"+app, &list))
	var out []string
	for _, p := range list.Items {
		for _, c := range p.Status.ContainerStatuses {
			// The kubelet counts a container that never ran too: cri-shim was killed between its creation and its start.
			if e := c.LastState.Terminated; e != nil && e.StartedAt.Unix() > 0 {
				out = append(out, fmt.Sprintf("%s %d times: %+v", p.Metadata.Name, c.RestartCount, *e))
			} else if c.RestartCount > 0 {
				t.Logf("%s: a container was made %d times again before one ran", p.Metadata.Name, c.RestartCount)
			}
		}
	}
	return out
}

// ended is how a container ended, as its pod's status tells it.
type ended struct {
	ExitCode              int
	Reason, Message       string
	StartedAt, FinishedAt time.Time
}
