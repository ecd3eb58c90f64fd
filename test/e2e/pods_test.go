package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/test/node"
)

// TestTwentyPods starts 20 pods, 8 at a time, and looks for 20 addresses.
func TestTwentyPods(t *testing.T) {
	n := newNode(t)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, 8)
		ips   = map[string]string{}
	)
	for i := range 20 {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			name := fmt.Sprintf("p%d", i)
			id, err := n.RunPod(name)
			if err == nil {
				_, err = n.RunContainer(id, name, "main", image, "sleep 1000", "")
			}
			ip := ""
			if err == nil {
				ip, err = n.PodIP(id)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if other := ips[ip]; other != "" {
				t.Errorf("%s and %s have %s", name, other, ip)
			}
			ips[ip] = name
		})
	}
	wg.Wait()
	if lines := strings.Fields(n.crictl("ps", "-q", "--state", "Running")); len(lines) != 20 {
		t.Errorf("%d containers run", len(lines))
	}
}

func TestEnds(t *testing.T) {
	n := newNode(t)
	p := n.pod("ends")
	file, err := n.File("pod-shared.json", n.PodJSON("shared", true)) // where a container's process is not process 1
	n.must(err)
	shared := n.crictl("runp", file)
	const oom = `"linux": {"resources": {"memory_limit_in_bytes": 15728640}}`
	for _, c := range []struct {
		pod, podName, name, script, extra string
		code                              int
		reason                            string
	}{
		{p, "ends", "zero", "exit 0", "", 0, "Completed"},
		{p, "ends", "seven", "exit 7", "", 7, "Error"},
		{shared, "shared", "signal", "kill -9 $$", "", 137, "Error"},
		{shared, "shared", "fault", "kill -SEGV $$", "", 139, "Error"},
		{p, "ends", "oom", "dd if=/dev/zero of=/dev/null bs=100M count=1", oom, 137, "OOMKilled"},
	} {
		got := n.ended(n.run(c.pod, c.podName, c.name, c.script+"; exit $?", c.extra))
		if got.Status.ExitCode != c.code || got.Status.Reason != c.reason || got.Status.FinishedAt == "" {
			t.Errorf("%s: got %+v", c.name, got.Status)
		}
	}
	slow := n.run(p, "ends", "term", "trap 'exit 3' TERM; while :; do sleep 0.01; done", "")
	n.crictl("stop", "-t", "20", slow)
	if got := n.container(slow); got.Status.State != "CONTAINER_EXITED" || got.Status.ExitCode != 3 {
		t.Errorf("after its stop signal: %+v", got.Status)
	}
}

// ended waits for the end of a container. It asks without crictl: where that takes a second, as on an emulated machine,
// asking again and again would hold up what it waits for.
func (n *tester) ended(id string) node.Inspect {
	n.t.Helper()
	cri := runtime.NewRuntimeServiceClient(n.dial())
	n.eventually(func() bool {
		r, err := cri.ContainerStatus(n.t.Context(), &runtime.ContainerStatusRequest{ContainerId: id})
		n.must(err)
		return r.GetStatus().GetState() == runtime.ContainerState_CONTAINER_EXITED
	})
	return n.container(id)
}

// text returns what a container wrote to a stream, partial lines joined.
func text(t *testing.T, path, stream string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for line := range bytes.Lines(data) {
		f := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 4)
		if len(f) != 4 {
			t.Fatalf("line %q", line)
		}
		if stamp, err := time.Parse(time.RFC3339Nano, string(f[0])); err != nil || stamp.Nanosecond() == 0 {
			t.Fatalf("time %q: %v", f[0], err)
		}
		if string(f[1]) == stream {
			out.Write(f[3])
			if string(f[2]) == "F" {
				out.WriteByte('\n')
			}
		}
	}
	return out.String()
}

func TestLogsAreByteExact(t *testing.T) {
	n := newNode(t)
	p := n.pod("logs")
	lines := n.run(p, "logs", "lines", "seq 1 100000; echo problem >&2", "")
	long := n.run(p, "logs", "long", "head -c 1048576 /dev/zero | tr '\\0' x; echo; printf 'no newline'", "")
	n.ended(lines)
	n.ended(long)
	var want strings.Builder
	for i := range 100000 {
		fmt.Fprintln(&want, i+1)
	}
	if got := text(t, n.container(lines).Status.LogPath, "stdout"); got != want.String() {
		t.Errorf("100,000 lines: %d bytes, want %d", len(got), want.Len())
	}
	if got := text(t, n.container(lines).Status.LogPath, "stderr"); got != "problem\n" {
		t.Errorf("stderr: %q", got)
	}
	if got := text(t, n.container(long).Status.LogPath, "stdout"); got != strings.Repeat("x", 1<<20)+"\nno newline" {
		t.Errorf("a line of 1 MiB: %d bytes", len(got))
	}
	if got := n.crictl("logs", lines); !strings.HasPrefix(got, "1\n2\n3\n") {
		t.Errorf("crictl logs: %.60q", got)
	}
}

func TestLogRotation(t *testing.T) {
	n := newNode(t)
	p := n.pod("rotate")
	id := n.run(p, "rotate", "main", "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.005; done", "")
	path := n.container(id).Status.LogPath
	var parts []string
	for i := range 3 {
		time.Sleep(300 * time.Millisecond)
		old := fmt.Sprintf("%s.%d", path, i)
		n.must(os.Rename(path, old))
		n.crictl("logs", "--reopen", "--tail", "0", id)
		parts = append(parts, old)
	}
	n.ended(id)
	var got string
	for _, part := range append(parts, path) {
		got += text(t, part, "stdout")
	}
	var want strings.Builder
	for i := range 400 {
		fmt.Fprintln(&want, i)
	}
	if got != want.String() {
		t.Errorf("lines are lost or doubled over %d rotations: %d bytes, want %d", len(parts), len(got), want.Len())
	}
}

func TestExecSync(t *testing.T) {
	n := newNode(t)
	p := n.pod("exec")
	id := n.run(p, "exec", "main", "sleep 1000", "")
	// crictl prints both, each with an empty line behind it, to its standard output.
	if got := n.crictl("exec", "--sync", id, "sh", "-c", "echo err >&2; echo out"); got != "out\n\nerr\n" {
		t.Errorf("got %q", got)
	}
	_, err := n.Crictl("exec", "--sync", id, "sh", "-c", "echo why >&2; exit 5")
	if err == nil || !strings.Contains(err.Error(), "exited with 5: why") {
		t.Errorf("exit code 5: %v", err)
	}
	begin := time.Now()
	_, err = n.Crictl("exec", "--sync", "--timeout", "1", id, "sh", "-c", "sleep 600 & sleep 601")
	if err == nil || !strings.Contains(err.Error(), "DeadlineExceeded") || time.Since(begin) > 30*time.Second {
		t.Errorf("timeout: %v after %s", err, time.Since(begin))
	}
	if got := n.crictl("exec", "--sync", id, "sh", "-c", "ps | grep -c 'sleep 60[01]$' || true"); strings.TrimSpace(got) != "0" {
		t.Errorf("after the timeout %q of it run", got)
	}
	if _, err := n.Crictl("exec", "--sync", id, "/no/such/command"); err == nil || !strings.Contains(err.Error(), "/no/such/command") {
		t.Errorf("no such command: %v", err)
	}
}

func TestTerminal(t *testing.T) {
	n := newNode(t)
	p := n.pod("tty")
	id := n.run(p, "tty", "main", "test -t 0 && test -t 1 && test -t 2 && echo terminal $TERM", `"tty": true`)
	got := n.ended(id)
	if got.Status.ExitCode != 0 {
		t.Errorf("got %+v", got.Status)
	}
	if got := text(t, got.Status.LogPath, "stdout"); got != "terminal xterm\r\n" {
		t.Errorf("log: %q", got)
	}
}

// TestSharedPIDAndUser: a pod with one PID namespace, and an image with a user.
func TestSharedPIDAndUser(t *testing.T) {
	n := newNode(t)
	n.crictl("pull", "podwright.test/user:1000")
	file, err := n.File("pod-shared.json", n.PodJSON("shared", true))
	n.must(err)
	p := n.crictl("runp", file)
	const shared = `"linux": {"security_context": {"namespace_options": {"pid": 0}}}`
	one := n.run(p, "shared", "one", "exec sleep 12345", shared)
	two, err := n.RunContainer(p, "shared", "two", "podwright.test/user:1000", "id -u; ps; echo end; exec sleep 1000", shared)
	n.must(err)
	var got string
	log := n.container(two).Status.LogPath
	n.eventually(func() bool { got = text(t, log, "stdout"); return strings.HasSuffix(got, "end\n") })
	if !strings.HasPrefix(got, "1000\n") || !strings.Contains(got, "sleep 12345") || !strings.Contains(got, "/pause") {
		t.Errorf("two sees %q", got)
	}
	n.crictl("stop", "-t", "0", one)
	if c := n.container(two); c.Status.State != "CONTAINER_RUNNING" {
		t.Errorf("two is %+v", c.Status)
	}
}

// TestSignalsAreNotIgnored: a program that ignores a signal passes that on to all it starts; a container's must not
// come to it so.
func TestSignalsAreNotIgnored(t *testing.T) {
	n := newNode(t)
	p := n.pod("signals")
	id := n.run(p, "signals", "main", "exec sleep 1000", "")
	for _, of := range []string{"1", "self"} { // the container's own, and a command's
		got := n.crictl("exec", "--sync", id, "grep", "SigIgn", "/proc/"+of+"/status")
		f := strings.Fields(got)
		if len(f) != 2 {
			t.Fatalf("process %s: %q", of, got)
		}
		ignored, err := strconv.ParseUint(f[1], 16, 64)
		const ordinary = 1<<31 - 1 // 32 and 33 are the C library's own, and what make starts ignores them
		if err != nil || ignored&ordinary != 0 {
			t.Errorf("process %s: %q, %v", of, got, err)
		}
	}
}

func TestStaticBinaries(t *testing.T) {
	for _, name := range []string{"cri-shim", "cri-monitor", "bridge-ipam"} {
		out, err := exec.Command("file", programs.Bin+"/"+name).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "statically linked") {
			t.Errorf("%s, %v", out, err)
		}
		fi, err := os.Stat(programs.Bin + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f MiB", name, float64(fi.Size())/(1<<20))
		if name == "bridge-ipam" && fi.Size() > 8<<20 {
			t.Errorf("%s has %d bytes, more than 8 MiB", name, fi.Size())
		}
	}
}
