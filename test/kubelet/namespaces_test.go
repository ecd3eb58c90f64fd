package kubelet

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

const web = "mkdir /www; hostname >/www/index.html; exec httpd -f -p %d -h /www"

func fetch(url string) string {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

func testHostNetwork(t *testing.T, w *world) {
	const name = "hostnet"
	w.pod(t, name, "hostNetwork: true\ncontainers:\n"+shell("main", fmt.Sprintf(web, 18081),
		"ports: [{containerPort: 18081}]\nreadinessProbe: {tcpSocket: {port: 18081}, periodSeconds: 1}"))
	w.running(t, name) // a kubelet without an API server leaves the address of the host out
	contains(t, "links", w.run(t, name, "main", "ip address show "+hostLink), HostIP)
	host, err := os.Hostname()
	must(t, err)
	equal(t, "answer", strings.TrimSpace(fetch("http://127.0.0.1:18081/")), host)
}

func testHostPort(t *testing.T, w *world) {
	const name = "hostport"
	w.pod(t, name, "containers:\n"+shell("main", fmt.Sprintf(web, 80), "ports: [{containerPort: 80, hostPort: 18080}]"))
	w.eventually(t, "an answer", 30*time.Second, func() string {
		if got := fetch("http://" + HostIP + ":18080/"); strings.TrimSpace(got) != staticName(name) {
			return got
		}
		return ""
	})
}

func testPodToPod(t *testing.T, w *world) {
	const server, client = "server", "client"
	w.pod(t, server, "containers:\n"+shell("main", fmt.Sprintf(web, 80), "readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}"))
	p := w.running(t, server)
	w.pod(t, client, onFailure+"containers:\n"+shell("main", "wget -q -O - http://"+p.Status.PodIP+"/", ""))
	w.ended(t, client, "Succeeded")
	equal(t, "answer to a pod", w.logs(t, client, "main"), staticName(server)+"\n")
	equal(t, "answer to the host", fetch("http://"+p.Status.PodIP+"/"), staticName(server)+"\n")
}

func testSharedPID(t *testing.T, w *world) {
	const name = "sharedpid"
	w.pod(t, name, "shareProcessNamespace: true\ncontainers:\n"+shell("one", "exec sleep 54321", "")+shell("two", "sleep 0.1 & true"+forever, ""))
	w.running(t, name)
	seen := w.run(t, name, "two", "ps -o pid,comm,args")
	contains(t, "processes", seen, "sleep 54321")
	for line := range strings.Lines(seen) {
		if f := strings.Fields(line); f[0] == "1" && strings.Contains(line, "sleep") {
			t.Errorf("a container is process 1 of the pod: %s", seen)
		}
	}
	equal(t, "namespaces", w.run(t, name, "one", "readlink /proc/self/ns/pid"), w.run(t, name, "two", "readlink /proc/self/ns/pid"))
}

func testHostPID(t *testing.T, w *world) {
	const name = "hostpid"
	w.pod(t, name, "hostPID: true\nhostIPC: true\ncontainers:\n"+shell("main", "true"+forever, ""))
	w.running(t, name)
	for _, kind := range []string{"pid", "ipc"} {
		ns, err := os.Readlink("/proc/self/ns/" + kind)
		must(t, err)
		equal(t, kind+" namespace", strings.TrimSpace(w.run(t, name, "main", "readlink /proc/self/ns/"+kind)), ns)
	}
}

func testSysctls(t *testing.T, w *world) {
	const name = "sysctls"
	w.pod(t, name, `
securityContext:
  sysctls:
  - {name: net.ipv4.ip_unprivileged_port_start, value: "80"}
  - {name: kernel.shm_rmid_forced, value: "1"}
containers:
`+shell("main", "true"+forever, ""))
	w.running(t, name)
	equal(t, "ports", w.run(t, name, "main", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80\n")
	equal(t, "shared memory", w.run(t, name, "main", "cat /proc/sys/kernel/shm_rmid_forced"), "1\n")
}

func testUserNamespace(t *testing.T, w *world) {
	const name = "userns"
	w.pod(t, name, "hostUsers: false\nvolumes: [{name: d, emptyDir: {}}]\ncontainers:\n"+
		shell("main", "touch /d/file"+forever, "volumeMounts: [{name: d, mountPath: /d}]"))
	w.until(t, name, "ready", func(p Pod) bool {
		if strings.Contains(w.Log(), "can't set `spec.hostUsers: false`, runtime does not support user namespaces") {
			t.Skip("the OCI runtime of this host, or cri-shim with it, makes no pods with users of their own")
		}
		return p.Container("main").Ready
	})
	maps := strings.Fields(w.run(t, name, "main", "cat /proc/self/uid_map"))
	if len(maps) != 3 || maps[0] != "0" || maps[1] == "0" || maps[2] != "65536" {
		t.Errorf("map of users %v, want 65536 from 0, to others of the host", maps)
	}
	equal(t, "the user inside", w.run(t, name, "main", "id -u"), "0\n")
	equal(t, "the owner of a file in a volume", w.run(t, name, "main", "stat -c %u /d/file"), "0\n")
}
