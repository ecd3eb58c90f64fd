package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// one starts a pod on the second node, so that what kubectl does goes through the control plane and over the bridge.
func (w *world) one(t *testing.T, name, spec string) {
	t.Helper()
	w.apply(t, onNode(w.Nodes[1].Name, name, spec))
	w.remove(t, "pod/"+name)
	w.ready(t, name)
}

func testExec(t *testing.T, w *world) {
	w.one(t, "exec", shell("main", sleep, ""))
	equal(t, "output", w.kubectl(t, "exec", "exec", "--", "echo", "a b"), "a b\n")
	out, err := w.Kubectl(t.Context(), "some input", "exec", "-i", "exec", "--", "sh", "-c", "cat; echo fault >&2; exit 7")
	var code *exec.ExitError
	if !errors.As(err, &code) || code.ExitCode() != 7 {
		t.Errorf("exit code: %v, want 7", err)
	} else {
		contains(t, "standard error", err.Error(), "fault")
	}
	equal(t, "input", out, "some input")
	data := make([]byte, 4<<20)
	_, _ = rand.Read(data) // never fails
	back, err := w.Kubectl(t.Context(), string(data), "exec", "-i", "exec", "--", "cat")
	must(t, err)
	if back != string(data) {
		t.Errorf("%d bytes came back otherwise, or %d", len(data), len(back))
	}
}

func testLogs(t *testing.T, w *world) {
	w.one(t, "logs", shell("main", "i=0; while [ ! -e /end ]; do i=$((i+1)); echo line $i; sleep 0.05; done; echo last; "+sleep, ""))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := w.KubectlCommand(ctx, "logs", "-f", "logs")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	last := ""
	lines := bufio.NewScanner(out)
	for i := 1; lines.Scan(); i++ {
		if last = lines.Text(); last == "last" {
			break
		}
		equal(t, "line", last, fmt.Sprintf("line %d", i))
		if i == 20 {
			w.exec(t, "logs", "touch /end")
		}
	}
	equal(t, "the end", last, "last")
	cancel()
	_ = cmd.Wait() // it was killed
	text := w.kubectl(t, "logs", "logs")
	if !strings.HasPrefix(text, "line 1\n") || !strings.HasSuffix(text, "\nlast\n") {
		t.Errorf("the whole log: %.100q…", text)
	}
	equal(t, "the end of the log", w.kubectl(t, "logs", "--tail=1", "logs"), "last\n")
}

func testCopy(t *testing.T, w *world) {
	w.one(t, "copy", shell("main", sleep, ""))
	dir := t.TempDir()
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data) // never fails
	must(t, os.WriteFile(filepath.Join(dir, "there"), data, 0o644))
	w.kubectl(t, "cp", filepath.Join(dir, "there"), "copy:/tmp/file")
	w.kubectl(t, "cp", "copy:/tmp/file", filepath.Join(dir, "back"))
	back, err := os.ReadFile(filepath.Join(dir, "back"))
	must(t, err)
	if !bytes.Equal(back, data) {
		t.Errorf("a file came back otherwise: %d bytes, want %d", len(back), len(data))
	}
}

func testPortForward(t *testing.T, w *world) {
	w.one(t, "forward", web(""))
	ctx, cancel := context.WithCancel(t.Context())
	cmd := w.KubectlCommand(ctx, "port-forward", "forward", ":8080")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() {
		cancel()
		_ = cmd.Wait() // it was killed
	}()
	in := bufio.NewReader(out)
	line, err := in.ReadString('\n')
	must(t, err)
	go func() { _, _ = io.Copy(io.Discard, in) }() // it ends with the command
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)
	if port == nil {
		t.Fatalf("port-forward says %q", line)
	}
	for range 20 {
		answer, err := get(t.Context(), "http://127.0.0.1:"+port[1]+"/hostname")
		must(t, err)
		equal(t, "answer", answer, "forward")
	}
}

func testAttach(t *testing.T, w *world) {
	w.one(t, "attach", shell("main", `while read -r line; do echo "got $line"; done; `+sleep, "stdin: true"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := w.KubectlCommand(ctx, "attach", "-i", "attach")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for _, word := range []string{"one", "two", "three"} {
		_, err := fmt.Fprintln(in, word)
		must(t, err)
		if !lines.Scan() || lines.Text() != "got "+word {
			t.Errorf("after %q came %q, %v", word, lines.Text(), lines.Err())
		}
	}
	cancel()
	_ = cmd.Wait() // it was killed
	equal(t, "log", w.kubectl(t, "logs", "attach"), "got one\ngot two\ngot three\n")
}

// What kubectl top adds up comes from here.
func testStats(t *testing.T, w *world) {
	w.one(t, "stats", shell("main", "i=0; while :; do i=$((i+1)); [ $((i % 1000)) != 0 ] || sleep 0.1; done", ""))
	node := w.Nodes[1].Name
	w.eventually(t, "statistics of a pod", time.Minute, func() string {
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name string }
				CPU        struct{ UsageNanoCores uint64 }
				Memory     struct{ WorkingSetBytes uint64 }
				Network    struct{ Name string }
				Containers []struct {
					CPU    struct{ UsageNanoCores uint64 }
					Memory struct{ WorkingSetBytes uint64 }
				}
			}
		}
		must(t, w.API.Get(t.Context(), "/api/v1/nodes/"+node+"/proxy/stats/summary", &summary))
		for _, p := range summary.Pods {
			if p.PodRef.Name != "stats" || len(p.Containers) != 1 {
				continue
			}
			c := p.Containers[0]
			if p.CPU.UsageNanoCores == 0 || p.Memory.WorkingSetBytes == 0 || p.Network.Name != "eth0" || c.CPU.UsageNanoCores == 0 || c.Memory.WorkingSetBytes == 0 {
				return fmt.Sprintf("%+v", p)
			}
			return ""
		}
		return "none of the pod"
	})
	for path, want := range map[string]string{
		"/metrics/resource": `container_cpu_usage_seconds_total{container="main",namespace="default",pod="stats"}`,
		"/metrics/cadvisor": "container_network_receive_bytes_total{",
	} {
		contains(t, path, w.kubectl(t, "get", "--raw", "/api/v1/nodes/"+node+"/proxy"+path), want)
	}
}

func testVolumes(t *testing.T, w *world) {
	w.apply(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {color: green, size: large}",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: secret}\nstringData: {password: opensesame}")
	w.remove(t, "configmap/settings", "secret/secret")
	w.one(t, "volumes", `volumes:
- {name: settings, configMap: {name: settings}}
- {name: secret, secret: {secretName: secret, defaultMode: 0400}}
- name: all
  projected:
    sources:
    - configMap: {name: settings, items: [{key: size, path: deep/size}]}
    - secret: {name: secret}
    - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
containers:
`+shell("main", sleep, `env:
- {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
- {name: PASSWORD, valueFrom: {secretKeyRef: {name: secret, key: password}}}
volumeMounts:
- {name: settings, mountPath: /settings}
- {name: secret, mountPath: /secret}
- {name: all, mountPath: /all}
- {name: settings, mountPath: /single, subPath: color}
`))
	out := w.exec(t, "volumes", "echo $COLOR $PASSWORD; cat /settings/color; echo; stat -L -c %a /secret/password; cat /secret/password; echo; cat /all/deep/size; echo; cat /all/password; echo; cat /all/name; echo; cat /single")
	equal(t, "what the pod sees", out, "green opensesame\ngreen\n400\nopensesame\nlarge\nopensesame\nvolumes\ngreen")
	w.kubectl(t, "patch", "configmap", "settings", "-p", `{"data": {"color": "blue"}}`)
	w.eventually(t, "a change reaches the pod", 2*time.Minute, func() string {
		if now := w.exec(t, "volumes", "cat /settings/color"); now != "blue" {
			return now
		}
		return ""
	})
	equal(t, "a single file, which does not change", w.exec(t, "volumes", "cat /single"), "green")
}

// The token of a service account is good for the API, at the address where pods find it.
func testTokens(t *testing.T, w *world) {
	w.kubectl(t, "create", "serviceaccount", "walker")
	w.remove(t, "serviceaccount/walker")
	w.one(t, "tokens", `serviceAccountName: walker
volumes: [{name: t, projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 600}}]}}]
containers:
`+shell("main", sleep, "volumeMounts: [{name: t, mountPath: /t}]"))
	for _, path := range []string{"/t/token", "/var/run/secrets/kubernetes.io/serviceaccount/token"} {
		token := w.exec(t, "tokens", "cat "+path)
		var review struct {
			Status struct {
				UserInfo struct {
					Username string
					Extra    map[string][]string
				}
			}
		}
		equal(t, path, w.whoIs(t, token, &review), "")
		equal(t, "user", review.Status.UserInfo.Username, "system:serviceaccount:default:walker")
		equal(t, "pod", strings.Join(review.Status.UserInfo.Extra["authentication.kubernetes.io/pod-name"], " "), "tokens")
	}
	out := w.exec(t, "tokens", "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo open")
	equal(t, "the API's service", strings.TrimSpace(out), "open")
}

// whoIs asks the API whom it takes the bearer of a token for.
func (w *world) whoIs(t *testing.T, token string, out any) string {
	t.Helper()
	body := `{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server+"/apis/authentication.k8s.io/v1/selfsubjectreviews", strings.NewReader(body))
	must(t, err)
	req.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
	anonymous := w.ca.client(nil)
	resp, err := anonymous.Do(req)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusCreated {
		return fmt.Sprintf("%s: %s", resp.Status, text)
	}
	must(t, json.Unmarshal(text, out))
	return ""
}
