package cluster

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// get asks a new connection each time, as another client would.
func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}

// clients are a pod on each node.
func (w *world) clients(t *testing.T, name string) []string {
	t.Helper()
	var pods []string
	for _, n := range w.Nodes {
		w.apply(t, onNode(n.Name, name+"-"+n.Name, shell("main", sleep, "")))
		pods = append(pods, name+"-"+n.Name)
		w.remove(t, "pod/"+name+"-"+n.Name)
	}
	w.ready(t, slices.Clone(pods)...)
	return pods
}

// allSeen asks until every one of want has answered.
func (w *world) allSeen(t *testing.T, what string, want []string, ask func() string) {
	t.Helper()
	seen := map[string]bool{}
	w.eventually(t, what, time.Minute, func() string {
		for _, answer := range strings.Fields(ask()) {
			seen[answer] = true
		}
		if len(seen) < len(want) {
			return fmt.Sprintf("%d of %d have answered", len(seen), len(want))
		}
		return ""
	})
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("%s: answers from %v, want %v", what, got, want)
	}
}

func testServices(t *testing.T, w *world) {
	const replicas = 30
	w.apply(t, workload("Deployment", "web", fmt.Sprintf("replicas: %d", replicas), web("")),
		"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}")
	w.remove(t, "deployment/web", "service/web")
	w.rolledOut(t, "deployment/web")
	pods := w.pods(t, "web")
	if len(pods) != replicas || !onEach(pods, 5, w.Nodes...) {
		t.Errorf("want %d pods across both nodes:\n%s", replicas, w.kubectl(t, "get", "pods", "-l", "app=web", "-o", "wide"))
	}
	ip, port := w.service(t, "web")
	for _, client := range w.clients(t, "web-client") {
		w.allSeen(t, "all pods answer "+client, names(pods), func() string {
			return w.exec(t, client, fmt.Sprintf("for i in $(seq 200); do wget -q -O - http://%s/hostname && echo || exit 1; done", ip))
		})
		// Without the service, and so with the client's own address on the way to another node.
		for _, p := range pods[:10] {
			got := w.exec(t, client, fmt.Sprintf("wget -q -O - http://%s:8080/clientip", p.Status.PodIP))
			if own := w.podIP(t, client); !strings.HasPrefix(got, own+":") {
				t.Errorf("%s is seen as %q by %s, want %s", client, got, p.Metadata.Name, own)
			}
		}
	}
	for _, n := range w.Nodes {
		w.allSeen(t, "all pods answer at the port of "+n.Name, names(pods), func() string {
			var answers []string
			for range 200 {
				answer, err := get(t.Context(), fmt.Sprintf("http://%s:%d/hostname", n.IP, port))
				must(t, err)
				answers = append(answers, answer)
			}
			return strings.Join(answers, " ")
		})
	}
}

func (w *world) podIP(t *testing.T, name string) string {
	t.Helper()
	var p pod
	must(t, w.API.Get(t.Context(), "/api/v1/namespaces/default/pods/"+name, &p))
	return p.Status.PodIP
}

// Names are looked up by UDP at the address of a service, as in every cluster; also while who answers is replaced: what the kernel
// remembers of a conversation must not lead to a pod that is gone.
func testNames(t *testing.T, w *world) {
	w.apply(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: names}\ndata: {hosts: \"10.1.2.3 some.default.svc."+Domain+"\\n\"}",
		workload("Deployment", "names", "replicas: 2\nstrategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}",
			"volumes: [{name: hosts, configMap: {name: names}}]\ncontainers:\n- name: main\n  image: "+Names+
				"\n  volumeMounts: [{name: hosts, mountPath: /etc/names}]\n  lifecycle: {preStop: {sleep: {seconds: 3}}}\n"),
		fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: names}\nspec: {clusterIP: %s, selector: {app: names}, ports: [{port: 53, protocol: UDP}]}", DNS))
	w.remove(t, "deployment/names", "service/names", "configmap/names")
	w.rolledOut(t, "deployment/names")
	clients := w.clients(t, "names-client")
	const name, none = "some.default.svc." + Domain, "none.default.svc." + Domain
	contains(t, "resolv.conf", w.exec(t, clients[0], "cat /etc/resolv.conf"), "nameserver "+DNS, "search default.svc."+Domain)
	var missed []untranslated
	for _, n := range w.Nodes {
		missed = append(missed, countUntranslated(t, n, "names", "ip daddr "+DNS+" udp dport 53"))
	}
	look := func(when string) {
		for i, client := range clients {
			before := missed[i].count(t)
			out := w.exec(t, client, "for i in $(seq 50); do out=$(nslookup "+name+" 2>&1) && echo $out | grep -q 'Address: *10.1.2.3' && continue; echo look-up $i: $out; done")
			failed := strings.Count(out, "look-up")
			if lost := missed[i].count(t) - before; failed > min(lost, 3) {
				t.Errorf("%s, %d look-ups of %s failed, and %d datagrams were not sent on to a pod:\n%s", when, failed, client, lost, out)
			} else if failed > 0 {
				t.Logf("%s, %s itself refused, its rules were being replaced: %s", when, w.Nodes[i].Name, out)
			}
		}
	}
	w.eventually(t, "kube-proxy knows the names' service", time.Minute, func() string {
		for _, client := range clients {
			if _, err := w.Kubectl(t.Context(), "", "exec", client, "--", "nslookup", name); err != nil {
				return err.Error()
			}
		}
		return ""
	})
	look("at first")
	if out, err := w.Kubectl(t.Context(), "", "exec", clients[0], "--", "nslookup", none); err == nil {
		t.Errorf("a name that does not exist: %s", out)
	}
	w.kubectl(t, "rollout", "restart", "deployment/names")
	look("during the roll-out")
	w.rolledOut(t, "deployment/names")
	look("after the roll-out")
}

func testHostPorts(t *testing.T, w *world) {
	n, other := w.Nodes[0], w.Nodes[1]
	const port = 8088
	w.apply(t, onNode(n.Name, "hostport", web(fmt.Sprintf("ports: [{containerPort: 8080, hostPort: %[1]d}, {containerPort: 8081, hostPort: %[1]d, protocol: UDP}]", port))))
	w.remove(t, "pod/hostport")
	w.ready(t, "hostport")
	url := fmt.Sprintf("http://%s:%d/hostname", n.IP, port)
	answer, err := get(t.Context(), url)
	must(t, err)
	equal(t, "from outside", answer, "hostport")
	equal(t, "from outside by UDP", udp(t, fmt.Sprintf("%s:%d", n.IP, port), "hostname"), "hostport")
	for _, client := range w.clients(t, "hostport-client") {
		equal(t, "from "+client, w.exec(t, client, "wget -q -O - "+url), "hostport")
	}
	for from, where := range map[*Node]string{n: "127.0.0.1", other: n.IP} {
		out, err := from.Command(t.Context(), "busybox", "wget", "-q", "-O", "-", fmt.Sprintf("http://%s:%d/hostname", where, port)).CombinedOutput()
		if err != nil || string(out) != "hostport" {
			t.Errorf("from %s at %s: %q, %v", from.Name, where, out, err)
		}
	}
	if answer, err := get(t.Context(), fmt.Sprintf("http://%s:%d/hostname", other.IP, port)); err == nil {
		t.Errorf("the other node answers %q at the port", answer)
	}
	w.kubectl(t, "delete", "pod", "hostport")
	if answer, err := get(t.Context(), url); err == nil {
		t.Errorf("%q answers at the port of a pod that is gone", answer)
	}
}

// udp asks by datagrams, which may be lost.
func udp(t *testing.T, address, question string) string {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "udp", address)
	must(t, err)
	defer conn.Close()
	buffer := make([]byte, 1500)
	for range 10 {
		must(t, conn.SetDeadline(time.Now().Add(time.Second)))
		_, err = conn.Write([]byte(question))
		if err == nil {
			var n int
			if n, err = conn.Read(buffer); err == nil {
				return string(buffer[:n])
			}
		}
	}
	t.Fatalf("%s by UDP: %v", address, err)
	return ""
}
