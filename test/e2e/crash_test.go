package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKillShim: pods run on without cri-shim, no line is lost, and what ended meanwhile has its true exit code.
func TestKillShim(t *testing.T) {
	n := newNode(t)
	p := n.pod("crash")
	counting := n.run(p, "crash", "counting", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done", "")
	ending := n.run(p, "crash", "ending", obeying, "")
	pid, log := n.pid(ending), n.container(counting).Status.LogPath
	before := lines(t, log)
	n.must(n.Kill())
	n.terminate(pid)
	n.eventually(func() bool { return lines(t, log) > before+20 })
	n.must(n.Start())
	if c := n.container(ending); c.Status.State != "CONTAINER_EXITED" || c.Status.ExitCode != 42 {
		t.Errorf("ended while cri-shim was down: %+v", c.Status)
	}
	if c := n.container(counting); c.Status.State != "CONTAINER_RUNNING" {
		t.Errorf("ran on: %+v", c.Status)
	}
	if got := n.crictl("pods", "-q", "--state", "Ready"); got != p {
		t.Errorf("pods: %q, want %q", got, p)
	}
	n.crictl("stop", "-t", "0", counting)
	n.noGap(counting, before+20)
}

// TestKillShimDuringStart: a start goes on without its cri-shim. The next one, which is there before the start has ended,
// shows what came of it: as Created a kubelet would start a second container beside this one.
func TestKillShimDuringStart(t *testing.T) {
	n := prepareNode(t)
	runtime, err := exec.LookPath("runc")
	n.must(err)
	slow := n.Base + "/slow-runc"
	n.must(os.WriteFile(slow, []byte("#!/bin/sh\ncase \" $* \" in *' run '*) touch "+n.Base+"/runs; sleep 4;; esac\nexec "+runtime+" \"$@\"\n"), 0o755))
	n.UseRuntime(slow)
	n.must(n.Start())
	n.crictl("pull", image)
	p := n.pod("start")
	id, err := n.CreateContainer(p, "start", sleeper("slow"))
	n.must(err)
	started := make(chan struct{})
	go func() {
		defer close(started)
		_, _ = n.Crictl("start", id) // its cri-shim is killed
	}()
	n.eventually(func() bool { _, err := os.Stat(n.Base + "/runs"); return err == nil })
	n.must(n.Kill())
	n.must(n.Start())
	if c := n.container(id); c.Status.State != "CONTAINER_RUNNING" {
		t.Errorf("got %+v", c.Status)
	}
	<-started
	n.crictl("stop", "-t", "0", id)
}

// TestEndedContainersAreUnmounted: a node does not keep a mount for each container that is done, also not for one that
// ended while no cri-shim was there. Its record and its log stay.
func TestEndedContainersAreUnmounted(t *testing.T) {
	n := newNode(t)
	n.crictl("pull", volumeImage)
	p := n.pod("ends")
	mounts := func(id string) int {
		all, err := os.ReadFile("/proc/self/mountinfo")
		n.must(err)
		return strings.Count(string(all), "/bundles/"+id+"/") // of the root file system and of the image volume
	}
	const writes = "echo here > /here; echo written; "
	runs := n.run(p, "ends", "runs", "sleep 1000", imageMount("", ""))
	exits := n.run(p, "ends", "exits", writes, imageMount("", ""))
	unseen := n.run(p, "ends", "unseen", writes+obeying, imageMount("", ""))
	n.eventually(func() bool { return mounts(exits) == 0 })
	pid := n.pid(unseen)
	n.must(n.Kill())
	n.terminate(pid)
	if got := mounts(unseen); got != 2 {
		t.Errorf("without a cri-shim: %d mounts, want 2", got)
	}
	n.must(n.Start())
	n.eventually(func() bool { return mounts(unseen) == 0 })
	if got := mounts(runs); got != 2 || n.exec(runs, "/vol/bin/echo", "here") != "here" {
		t.Errorf("of the one that runs: %d mounts, want 2", got)
	}
	for id, code := range map[string]int{exits: 0, unseen: 42} {
		c := n.container(id)
		if c.Status.State != "CONTAINER_EXITED" || c.Status.ExitCode != code || text(t, c.Status.LogPath, "stdout") != "written\n" {
			t.Errorf("%+v, and its log is %q", c.Status, text(t, c.Status.LogPath, "stdout"))
		}
	}
	n.crictl("rm", exits)
}

// lines counts those of a counting container's log.
func lines(t *testing.T, log string) int {
	t.Helper()
	return len(strings.Fields(text(t, log, "stdout")))
}

// obeying is the script of a container that ends with 42 when it is told to.
const obeying = "trap 'exit 42' TERM; sleep 1000 & wait"

// terminate tells it, until it has ended: process 1 of a PID namespace gets no signal before it handles it.
func (n *tester) terminate(pid int) {
	n.t.Helper()
	n.eventually(func() bool { return errors.Is(syscall.Kill(pid, syscall.SIGTERM), syscall.ESRCH) })
}

// pid is the process of a container.
func (n *tester) pid(id string) int {
	n.t.Helper()
	pid, err := strconv.Atoi(n.crictl("inspect", "-o", "go-template", "--template", "{{.info.pid}}", id))
	n.must(err)
	return pid
}

// noGap looks for a gap in what a counting container wrote, and for at least so many lines.
func (n *tester) noGap(id string, least int) {
	n.t.Helper()
	lines := strings.Fields(text(n.t, n.container(id).Status.LogPath, "stdout"))
	seen := map[string]bool{}
	for _, line := range lines {
		seen[line] = true
	}
	for i := range max(len(seen), least) {
		if !seen[fmt.Sprint(i)] {
			n.t.Fatalf("line %d of %d is missing", i, len(lines))
		}
	}
}

// TestKillMonitor: containers run on and go on logging under a new monitor, and obey it.
func TestKillMonitor(t *testing.T) {
	n := newNode(t)
	p := n.pod("monitor")
	counting := n.run(p, "monitor", "counting", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done", "")
	ending := n.run(p, "monitor", "ending", obeying, "")
	pid, log := n.pid(ending), n.container(counting).Status.LogPath
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		n.eventually(func() bool { return n.KillMonitor() == nil }) // the next one may not be there yet
	}
	before := lines(t, log)
	n.terminate(pid)
	tells := kernelTellsExits(t)
	if c := n.ended(ending).Status; (!tells || c.ExitCode != 42) && (tells || c.ExitCode != 255 || c.Reason != "MonitorLost") {
		t.Errorf("ended under another monitor: %+v", c)
	}
	if got := n.crictl("exec", "--sync", counting, "echo", "hi"); strings.TrimSpace(got) != "hi" {
		t.Errorf("exec: %q", got)
	}
	n.eventually(func() bool { return lines(t, log) > before+20 })
	n.crictl("stop", "-t", "1", counting)
	codes := []int{137, 143}
	if !tells {
		codes = []int{255}
	}
	if c := n.container(counting); c.Status.State != "CONTAINER_EXITED" || !slices.Contains(codes, c.Status.ExitCode) {
		t.Errorf("stopped: %+v", c.Status)
	}
	n.noGap(counting, before+20)
	n.crictl("rm", counting)
	n.crictl("rmp", "-f", p)
}

// kernelTellsExits says whether the kernel tells how a process ended to others than its parent (PIDFD_GET_INFO with
// PIDFD_INFO_EXIT, Linux 6.15), which a monitor after the one that started a container is not.
func kernelTellsExits(t *testing.T) bool {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	var major, minor int
	if _, scan := fmt.Sscanf(string(release), "%d.%d", &major, &minor); err != nil || scan != nil {
		t.Fatalf("kernel release %q: %v, %v", release, err, scan)
	}
	return major > 6 || major == 6 && minor >= 15
}

// TestKillBoth: cri-shim and cri-monitor die together.
func TestKillBoth(t *testing.T) {
	n := newNode(t)
	p := n.pod("both")
	id := n.run(p, "both", "main", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done", "")
	log := n.container(id).Status.LogPath
	n.must(n.Kill())
	n.must(n.KillMonitor())
	time.Sleep(300 * time.Millisecond)
	before := lines(t, log)
	n.must(n.Start())
	if c := n.container(id); c.Status.State != "CONTAINER_RUNNING" {
		t.Errorf("got %+v", c.Status)
	}
	n.eventually(func() bool { return lines(t, log) > before+20 })
	n.crictl("stop", "-t", "0", id)
	n.noGap(id, before+20)
}

// gate is a program that stands before another one and waits at a point for permission to go on.
const gate = `#!/bin/sh
dir=%[1]s
wait_at() {
	[ -e "$dir/at-$1" ] || return 0
	: > "$dir/reached"
	while [ -e "$dir/at-$1" ]; do sleep 0.01; done
}
case "$CNI_COMMAND $*" in
	*%[2]s*) wait_at before; %[3]s "$@"; code=$?; wait_at after; exit $code ;;
esac
exec %[3]s "$@"
`

// TestKillShimDuringRun kills cri-shim in the middle of RunPodSandbox: at points held open by a gate before and
// after the CNI plugin and the OCI runtime, and after times spread over the call. After a restart a retry
// succeeds, and the node's end says whether anything is left.
func TestKillShimDuringRun(t *testing.T) {
	for _, point := range []struct{ program, match, at string }{
		{"bridge-ipam", "ADD", "before"}, {"bridge-ipam", "ADD", "after"}, {"runc", " run ", "before"}, {"runc", " run ", "after"},
	} {
		t.Run(point.at+" "+point.program, func(t *testing.T) {
			n := prepareNode(t)
			n.holdAt(point.program, point.match, point.at)
			n.must(n.Start())
			file, err := n.File("pod-x.json", n.PodJSON("x", true))
			n.must(err)
			n.interruptRun(file, func() { n.waitReached() })
			n.must(os.Remove(filepath.Join(n.Base, "at-"+point.at)))
			n.retry(file)
		})
	}
	t.Run("spread", func(t *testing.T) {
		n := prepareNode(t)
		n.must(n.Start())
		for i, after := range []time.Duration{2, 5, 10, 20, 35, 60, 90} {
			name := fmt.Sprintf("x%d", i)
			file, err := n.File("pod-"+name+".json", n.PodJSON(name, true))
			n.must(err)
			n.interruptRun(file, func() { n.waitCall(i + 1); time.Sleep(after * time.Millisecond) })
			n.retry(file)
		}
	})
}

// holdAt puts a gate in the place of a program.
func (n *tester) holdAt(program, match, at string) {
	n.t.Helper()
	dir := filepath.Join(n.Base, "gates")
	n.must(os.MkdirAll(dir, 0o755))
	real := filepath.Join(programs.Bin, program)
	if program == "runc" {
		real = "/usr/sbin/runc"
		if _, err := os.Stat(real); err != nil {
			real = "/usr/bin/runc"
		}
	}
	n.must(os.WriteFile(filepath.Join(dir, program), fmt.Appendf(nil, gate, n.Base, "\""+match+"\"", real), 0o755))
	n.must(os.WriteFile(filepath.Join(n.Base, "at-"+at), nil, 0o644))
	if program == "runc" {
		n.UseRuntime(filepath.Join(dir, program))
	} else {
		n.UsePlugins(dir)
	}
}

// interruptRun begins RunPodSandbox, waits, and kills cri-shim.
func (n *tester) interruptRun(file string, wait func()) {
	n.t.Helper()
	cmd := n.CrictlCommand(n.t.Context(), "runp", file)
	n.must(cmd.Start())
	wait()
	n.must(n.Kill())
	_ = cmd.Wait() // it fails, or was just in time
}

func (n *tester) waitReached() {
	n.t.Helper()
	n.waitFor("the gate", func() bool { _, err := os.Stat(n.Base + "/reached"); return err == nil })
}

// waitCall waits until the record of another sandbox appears.
func (n *tester) waitCall(int) {
	n.t.Helper()
	before, _ := filepath.Glob(n.Root + "/pods/*")
	n.waitFor("the call", func() bool {
		now, _ := filepath.Glob(n.Root + "/pods/*")
		return len(now) > len(before)
	})
}

func (n *tester) waitFor(what string, is func() bool) {
	n.t.Helper()
	for range 20000 {
		if is() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	n.t.Fatalf("waited in vain for %s", what)
}

// retry restarts cri-shim and runs the same pod again.
func (n *tester) retry(file string) {
	n.t.Helper()
	n.must(n.Start())
	id := n.crictl("runp", file)
	if ip, err := n.PodIP(id); err != nil || ip == "" {
		n.t.Errorf("the retried pod has address %q, %v", ip, err)
	}
	if all := strings.Fields(n.crictl("pods", "-q", "--name", filepath.Base(file))); len(all) > 1 {
		n.t.Errorf("pods: %v", all)
	}
	n.crictl("rmp", "-f", id)
}
