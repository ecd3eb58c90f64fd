package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// number is a count in the JSON of the CRI: a text, or missing when it is 0.
type number struct {
	Value string `json:"value"`
}

func (n number) of(t *testing.T) uint64 {
	t.Helper()
	if n.Value == "" {
		return 0
	}
	v, err := strconv.ParseUint(n.Value, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

type usage struct {
	Attributes struct {
		ID string `json:"id"`
	} `json:"attributes"`
	CPU struct {
		UsageCoreNanoSeconds number `json:"usageCoreNanoSeconds"`
	} `json:"cpu"`
	Memory struct {
		WorkingSetBytes, UsageBytes number
	} `json:"memory"`
	WritableLayer struct {
		UsedBytes number
		FsID      struct {
			Mountpoint string `json:"mountpoint"`
		} `json:"fsId"`
	} `json:"writableLayer"`
}

func (n *tester) json(into any, args ...string) {
	n.t.Helper()
	n.must(json.Unmarshal([]byte(n.crictl(args...)), into))
}

// eventually asks again until the answer is right.
func eventually(t *testing.T, what string, right func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !right(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestStats(t *testing.T) {
	n := newNode(t)
	p := n.pod("stats")
	id := n.run(p, "stats", "busy", "head -c 4194304 /dev/zero >/file; while :; do :; done", "")
	idle := n.run(p, "stats", "idle", "sleep 1000", `"labels": {"kind": "idle"}`)
	var list struct{ Stats []usage }
	eventually(t, "4 MiB in the writable layer", func() bool {
		n.json(&list, "stats", "-o", "json", "--id", id)
		return len(list.Stats) == 1 && list.Stats[0].WritableLayer.UsedBytes.of(t) >= 4<<20
	})
	s := list.Stats[0]
	if s.Attributes.ID != id || s.CPU.UsageCoreNanoSeconds.of(t) == 0 || s.Memory.WorkingSetBytes.of(t) == 0 {
		t.Errorf("got %+v", s)
	}
	if _, err := os.Stat(s.WritableLayer.FsID.Mountpoint); err != nil {
		t.Errorf("file system: %v", err)
	}
	n.json(&list, "stats", "-o", "json", "--label", "kind=idle")
	if len(list.Stats) != 1 || list.Stats[0].Attributes.ID != idle {
		t.Errorf("by label: %+v", list.Stats)
	}
	if table := n.crictl("stats"); !strings.Contains(table, id[:13]) || !strings.Contains(table, idle[:13]) {
		t.Errorf("table:\n%s", table)
	}
}

// TestPodStats: traffic of the pod's interface, processes, and a cgroup of the pod's own.
func TestPodStats(t *testing.T) {
	n := newNode(t)
	parent, path := n.CgroupChild("own")
	file, err := n.File("pod-stats.json", strings.Replace(n.PodJSON("stats", false), `"linux": {`, `"linux": {"cgroup_parent": "`+parent+`", `, 1))
	n.must(err)
	p := n.crictl("runp", file)
	gateway := n.Subnet + ".1"
	n.run(p, "stats", "main", "ping -c 5 -i 0.1 -s 1000 "+gateway+"; sleep 1000", "")
	type traffic struct {
		Name             string
		RxBytes, TxBytes number
	}
	var list struct {
		Stats []struct {
			Attributes struct {
				ID string `json:"id"`
			}
			Linux struct {
				Network struct {
					DefaultInterface traffic
				}
				Process    struct{ ProcessCount number }
				Memory     struct{ WorkingSetBytes number }
				Containers []usage
			}
		}
	}
	eventually(t, "5 kB there and back", func() bool {
		n.json(&list, "statsp", "-o", "json")
		if len(list.Stats) != 1 {
			t.Fatalf("got %+v", list)
		}
		i := list.Stats[0].Linux.Network.DefaultInterface
		return i.Name == "eth0" && i.TxBytes.of(t) > 5000 && i.RxBytes.of(t) > 5000
	})
	l := list.Stats[0].Linux
	if list.Stats[0].Attributes.ID != p || l.Process.ProcessCount.of(t) == 0 || l.Memory.WorkingSetBytes.of(t) == 0 || len(l.Containers) != 1 {
		t.Errorf("got %+v", l)
	}
	metrics := n.crictl("metricsp", "-o", "json")
	for _, want := range []string{"container_cpu_usage_seconds_total", "container_network_receive_bytes_total", `"` + path + `"`, `"POD"`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s: %.400s", want, metrics)
		}
	}
	if described := n.crictl("metricdescs", "-o", "json"); strings.Count(described, `"labelKeys"`) < 50 {
		t.Errorf("descriptors: %.400s", described)
	}
	n.crictl("rmp", "-f", p)
	n.removeCgroup(path)
}

// removeCgroup removes a pod's own cgroup, as the kubelet does, whose it is.
func (n *tester) removeCgroup(path string) {
	n.t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/*" + path, "/sys/fs/cgroup" + path} {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			n.must(os.Remove(dir))
		}
	}
}

func TestUpdate(t *testing.T) {
	n := newNode(t)
	p := n.pod("update")
	id := n.run(p, "update", "main", "sleep 1000", `"linux": {"resources": {"memory_limit_in_bytes": 67108864}}`)
	n.crictl("update", "--memory", "134217728", "--cpu-share", "512", id)
	var got struct {
		Status struct {
			Resources struct {
				Linux struct{ MemoryLimitInBytes, CPUShares string }
			}
		}
	}
	n.json(&got, "inspect", "-o", "json", id)
	if l := got.Status.Resources.Linux; l.MemoryLimitInBytes != "134217728" || l.CPUShares != "512" {
		t.Errorf("status: %+v", l)
	}
	if limit := n.limit(id); limit != "134217728" {
		t.Errorf("the kernel's limit is %s", limit)
	}
	n.must(n.Kill())
	n.must(n.Start())
	n.json(&got, "inspect", "-o", "json", id)
	if l := got.Status.Resources.Linux; l.MemoryLimitInBytes != "134217728" {
		t.Errorf("after kill -9: %+v", l)
	}
	if _, err := n.Crictl("update", "--memory", "4096", id); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("a limit below what is in use: %v", err)
	}
	if limit := n.limit(id); limit != "134217728" {
		t.Errorf("after a refusal the kernel's limit is %s", limit)
	}
}

// limit is a container's memory limit as the kernel has it.
func (n *tester) limit(id string) string {
	n.t.Helper()
	for _, file := range []string{
		"/sys/fs/cgroup/memory" + n.ContainerCgroup(id) + "/memory.limit_in_bytes", "/sys/fs/cgroup" + n.ContainerCgroup(id) + "/memory.max",
	} {
		if data, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	n.t.Fatal("no limit")
	return ""
}

// TestEvents reads them as crictl prints them.
func TestEvents(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	events := n.follow(ctx, "events", "-o", "go-template", "--template", "{{.containerEventType}} {{.containerId}} {{.podSandboxStatus.metadata.name}}")
	n.eventually(func() bool { // crictl says nothing when it listens
		n.crictl("rmp", "-f", n.pod("early"))
		return len(events) > 0
	})
	p := n.pod("events")
	id := n.run(p, "events", "main", "exit 3", "")
	n.ended(id)
	n.crictl("rmp", "-f", p)
	got := map[string]string{}
	for lines := 0; lines < 8; {
		select {
		case line, open := <-events:
			f := strings.Fields(line)
			if len(f) == 3 && f[2] == "early" {
				continue
			}
			if !open || len(f) != 3 || f[2] != "events" {
				t.Fatalf("line %q after %v", line, got)
			}
			lines++
			got[f[1]] += strings.TrimSuffix(strings.TrimPrefix(f[0], "CONTAINER_"), "_EVENT") + " "
		case <-ctx.Done():
			t.Fatalf("only %v", got)
		}
	}
	for _, one := range []string{p, id} {
		if got[one] != "CREATED STARTED STOPPED DELETED " {
			t.Errorf("%s: %s", one, got[one])
		}
	}
}

// follow runs a crictl that does not end, until ctx does, and returns its lines.
func (n *tester) follow(ctx context.Context, args ...string) <-chan string {
	n.t.Helper()
	cmd := n.CrictlCommand(ctx, args...)
	out, err := cmd.StdoutPipe()
	n.must(err)
	n.must(cmd.Start())
	lines := make(chan string, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	n.t.Cleanup(func() { endCommand(cmd, done) })
	return lines
}

func endCommand(cmd *exec.Cmd, done <-chan struct{}) {
	_ = cmd.Process.Kill()
	<-done
	_ = cmd.Wait()
}

// TestShimStaysInItsNamespaces: a pod's namespaces are made by cri-shim, and none of its threads keeps one.
func TestShimStaysInItsNamespaces(t *testing.T) {
	n := newNode(t)
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		n.pod(name)
	}
	for _, kind := range []string{"net", "ipc", "uts"} {
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		n.must(err)
		tasks, err := filepath.Glob("/proc/" + strconv.Itoa(n.ShimPID()) + "/task/*/ns/" + kind)
		n.must(err)
		for _, task := range tasks {
			if theirs, err := os.Readlink(task); err == nil && theirs != ours {
				t.Errorf("%s is %s, want %s", task, theirs, ours)
			}
		}
	}
}
