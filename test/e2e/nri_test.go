package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// recorder is test/nriplugin, connected to a node.
type recorder struct {
	n      *tester
	cmd    *exec.Cmd
	events string // file
}

func pluginBinary(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../.cache/nriplugin")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (n *tester) record(name string) *recorder {
	n.t.Helper()
	r := &recorder{n: n, events: n.Base + "/" + name}
	r.cmd = exec.Command(pluginBinary(n.t), "--socket", n.NRISocket, "--events", r.events)
	r.cmd.Stderr = os.Stderr
	n.must(r.cmd.Start())
	n.t.Cleanup(r.kill)
	r.await("synchronize")
	return r
}

func (r *recorder) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // says that it was killed
}

func (r *recorder) lines() []string {
	data, _ := os.ReadFile(r.events)
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// await waits for an event that begins so.
func (r *recorder) await(event string) {
	r.n.t.Helper()
	r.n.eventually(func() bool {
		return slices.ContainsFunc(r.lines(), func(l string) bool { return strings.HasPrefix(l, event) })
	})
}

// resources are what a status says, and the CPU shares that the kernel has: of cgroup v1, or as a weight,
// which older versions of runc make another one of.
func (n *tester) resources(id string) (shares, memory string, kernel string) {
	n.t.Helper()
	var status struct {
		Status struct {
			Resources struct {
				Linux struct{ CPUShares, MemoryLimitInBytes string }
			}
		}
	}
	n.json(&status, "inspect", "-o", "json", id)
	files, _ := filepath.Glob("/sys/fs/cgroup/cpu" + n.ContainerCgroup(id) + "/cpu.shares")
	if len(files) == 0 {
		files = []string{"/sys/fs/cgroup" + n.ContainerCgroup(id) + "/cpu.weight"}
	}
	data, err := os.ReadFile(files[0])
	n.must(err)
	l := status.Status.Resources.Linux
	return l.CPUShares, l.MemoryLimitInBytes, strings.TrimSpace(string(data))
}

func TestNRI(t *testing.T) {
	n := newNode(t)
	r := n.record("events")
	pod := n.pod("a")
	c := n.run(pod, "a", "c", "sleep 1000", "")
	if got := n.exec(c, "sh", "-c", "echo $NRI; test -e /nri/passwd && echo mounted; cat /nri/hostname >/dev/null; echo x 2>/dev/null >/nri/x || echo readonly"); got != "was here\nmounted\nreadonly" {
		t.Errorf("inside: %q", got)
	}
	if shares, memory, kernel := n.resources(c); shares != "512" || memory != "67108864" || !slices.Contains([]string{"512", "59", "20"}, kernel) {
		t.Errorf("shares %s (kernel %s), memory %s", shares, kernel, memory)
	}

	// A kubelet's update keeps what the plugin set and the kubelet leaves alone.
	n.crictl("update", "--cpu-quota", "50000", "--cpu-period", "100000", c)
	if shares, memory, _ := n.resources(c); shares != "512" || memory != "67108864" {
		t.Errorf("after an update: shares %s, memory %s", shares, memory)
	}
	n.must(r.cmd.Process.Signal(syscall.SIGUSR1))
	r.await("asked")
	if shares, _, kernel := n.resources(c); shares != "300" || kernel != "300" && kernel != "42" && kernel != "12" {
		t.Errorf("after a plugin's update: shares %s (kernel %s)", shares, kernel)
	}
	spec, err := os.ReadFile(n.State + "/bundles/" + c + "/config.json")
	n.must(err)
	if !strings.Contains(string(spec), `"pids":{"limit":77}`) {
		t.Errorf("an update lost the pids limit: %s", spec)
	}

	n.crictl("stop", "--timeout", "0", c)
	n.crictl("rm", c)
	short := n.run(pod, "a", "short", "exit 7", "") // nobody stops it
	r.await("StopContainer short")
	n.crictl("rm", short)
	n.crictl("stopp", pod)
	n.crictl("stopp", pod)
	n.crictl("rmp", pod)
	want := []string{
		"configure cri-shim", "synchronize 0 0", "RunPodSandbox a 1",
		"CreateContainer c", "PostCreateContainer c", "StartContainer c", "PostStartContainer c",
		"UpdateContainer c", "PostUpdateContainer c", "asked 0 <nil>", "StopContainer c 137", "RemoveContainer c",
		"CreateContainer short", "PostCreateContainer short", "StartContainer short", "PostStartContainer short",
		"StopContainer short 7", "RemoveContainer short", "StopPodSandbox a", "RemovePodSandbox a",
	}
	got := r.lines()
	got[0], _, _ = strings.Cut(got[0], " 0.") // the version
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestNRIPluginsThatFail: a plugin that hangs, and is killed while it does, costs its time and nothing else.
func TestNRIPluginsThatFail(t *testing.T) {
	n := newNode(t)
	r := n.record("events")
	pod := n.pod("a")
	files := n.shimFiles()
	n.must(os.WriteFile(r.events+".hang", nil, 0o644))
	c := n.run(pod, "a", "c", "sleep 1000", "")
	if got := n.exec(c, "sh", "-c", "echo x$NRI"); got != "x" {
		t.Errorf("a plugin that hung changed the container: %q", got)
	}
	if !slices.Contains(r.lines(), "hang") || slices.Contains(r.lines(), "StartContainer c") {
		t.Errorf("events: %q", r.lines())
	}
	r.kill()

	second := n.record("second")
	n.must(os.WriteFile(second.events+".hang", nil, 0o644))
	done := make(chan error, 1)
	go func() {
		_, err := n.RunContainer(pod, "a", "d", image, "sleep 1000", "")
		done <- err
	}()
	second.await("hang")
	second.kill() // in the middle
	n.must(<-done)

	third := n.record("third")
	if got := third.lines(); got[len(got)-1] != "synchronize 1 2" {
		t.Errorf("the third is told %q", got)
	}
	n.must(n.Kill()) // of the runtime: the plugin loses its connection, and another one is told anew
	n.must(n.Start())
	fourth := n.record("fourth")
	if got := fourth.lines(); got[len(got)-1] != "synchronize 1 2" {
		t.Errorf("the fourth is told %q", got)
	}
	fourth.kill()
	third.kill()
	n.crictl("stop", "--timeout", "0", c)
	n.eventually(func() bool { return n.shimFiles() <= files })
}

// shimFiles counts the open descriptors of cri-shim.
func (n *tester) shimFiles() int {
	n.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.ShimPID()))
	n.must(err)
	return len(all)
}

// TestNRIPluginsOfTheNode are started by cri-shim, and are there before the first call is answered.
func TestNRIPluginsOfTheNode(t *testing.T) {
	n := prepareNode(t)
	r := &recorder{n: n, events: n.Base + "/events"}
	n.must(os.MkdirAll(n.NRIPlugins+"/conf", 0o755))
	binary, err := os.ReadFile(pluginBinary(t))
	n.must(err)
	n.must(os.WriteFile(n.NRIPlugins+"/10-recorder", binary, 0o755))
	n.must(os.WriteFile(n.NRIPlugins+"/conf/recorder.conf", []byte(r.events+"\n"), 0o644))
	n.must(n.Start())
	if got := r.lines(); got[len(got)-1] != "synchronize 0 0" {
		t.Errorf("told %q", got)
	}
	pod := n.pod("a")
	n.must(n.Terminate()) // which ends the plugin too: the test finds it otherwise
	n.must(n.Start())
	if got := r.lines(); got[len(got)-1] != "synchronize 1 0" {
		t.Errorf("told %q", got)
	}
	n.crictl("stopp", pod)
	n.crictl("rmp", pod)
	if got := r.lines(); got[len(got)-1] != "RemovePodSandbox a" {
		t.Errorf("told %q", got)
	}
}
