package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/podwright/podwright/test/node"
)

const largeImage = "podwright.test/large:latest"

// TestFullDisk: a pod fills the disk that images, layers, records and logs are on. Nothing new is made, nothing that
// runs is harmed, what happens is seen, by a cri-shim that was started meanwhile as well, and all that frees a disk
// works: stopping, removing, and deleting images.
func TestFullDisk(t *testing.T) {
	n := prepareNode(t)
	n.must(n.UseDisk(64 << 20))
	n.must(n.Start())
	n.crictl("pull", image)
	n.crictl("pull", largeImage)
	idle := n.pod("idle")
	p := n.pod("full")
	fills := n.run(p, "full", "fills", "until [ -e /go ]; do sleep 0.1; done; dd if=/dev/zero of=/fills bs=64k; i=0; while echo x > /more$i; do i=$((i+1)); done; touch /dev/shm/full; exec sleep 1000", "")
	counts := n.run(p, "full", "counts", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done", "")
	ends := n.run(p, "full", "ends", obeying, "")
	stops := n.run(p, "full", "stops", "exec sleep 1000", "")
	waits, err := n.CreateContainer(p, "full", sleeper("waits"))
	n.must(err)
	n.exec(fills, "touch", "/go")
	n.eventually(func() bool {
		_, err := n.Crictl("exec", "--sync", fills, "test", "-e", "/dev/shm/full")
		return err == nil
	})
	pid := n.pid(counts)

	// Nothing new is made, and nothing is left of it.
	if out, err := n.RunPod("new"); err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("a new pod: %q, %v", out, err)
	}
	n.refusesMore(p, waits)

	// What happens is seen.
	n.terminate(n.pid(ends))
	n.eventually(func() bool { return n.container(ends).Status.State == "CONTAINER_EXITED" })
	if got := n.container(ends).Status.ExitCode; got != 42 {
		t.Errorf("exit code %d", got)
	}
	if got := n.exec(counts, "echo", "here"); got != "here" {
		t.Errorf("exec: %q", got)
	}
	for _, args := range [][]string{{"stats"}, {"statsp"}, {"imagefsinfo"}, {"images"}} {
		n.crictl(args...)
	}
	n.crictl("stop", "-t", "0", stops)
	n.crictl("stopp", idle)
	n.must(n.Kill())
	n.must(n.Start())
	for id, want := range map[string]string{ends: "EXITED", stops: "EXITED", counts: "RUNNING", fills: "RUNNING", waits: "CREATED"} {
		c := n.container(id)
		if c.Status.State != "CONTAINER_"+want || id == ends && c.Status.ExitCode != 42 {
			t.Errorf("after a restart: want %s, got %+v", want, c.Status)
		}
	}
	if got := n.crictl("pods", "-q", "--state", "Ready"); got != p {
		t.Errorf("ready: %q, want %q", got, p)
	}

	// All that frees the disk works, and frees it.
	n.crictl("rmp", idle)
	n.crictl("rm", ends)
	full := n.free()
	n.crictl("rmi", largeImage)
	n.eventually(func() bool { return n.free()-full >= 4<<20 }) // ext4 frees with its next commit
	n.crictl("stop", "-t", "0", fills)
	n.crictl("rm", fills)
	n.eventually(func() bool { return n.free()-full >= 32<<20 })

	// All goes on.
	n.crictl("start", waits)
	n.crictl("rmp", "-f", n.pod("new"))
	if got := n.pid(counts); got != pid {
		t.Errorf("the process is %d, and was %d", got, pid)
	}
	last := func() string { return lastLine(t, n.container(counts).Status.LogPath) }
	before := last()
	n.eventually(func() bool { return last() != before })
	n.crictl("rmp", "-f", p)
	if left, _ := filepath.Glob(n.Root + "/pods/*"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// refusesMore asks for what needs room: another container in a pod, and the start of one that was made before.
func (n *tester) refusesMore(pod, created string) {
	n.t.Helper()
	_, err := n.CreateContainer(pod, "full", sleeper("new"))
	_, startErr := n.Crictl("start", created)
	for what, err := range map[string]error{"a new container": err, "a start": startErr} {
		if err == nil || !strings.Contains(err.Error(), "no space left on device") {
			n.t.Errorf("%s: %v", what, err)
		}
	}
}

// sleeper is a container that does nothing for long.
func sleeper(name string) string { return node.ContainerJSON(name, image, "exec sleep 1000", "") }

// free is what is free on the node's disk, in bytes, with what the file system reserves.
func (n *tester) free() int64 {
	n.t.Helper()
	var st syscall.Statfs_t
	n.must(syscall.Statfs(n.Root, &st))
	return int64(st.Bfree) * st.Bsize
}

func lastLine(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return all[len(all)-1]
}

// TestBrokenDisk: the kernel makes a file system that it finds damaged read-only. What runs can be ended, its network is
// given back and all of it is seen, so that the node can be drained; after the repair nothing has to be wiped.
func TestBrokenDisk(t *testing.T) {
	n := prepareNode(t)
	n.must(n.UseBlockDisk(64 << 20))
	n.must(n.Start())
	n.crictl("pull", image)
	p, host := n.pod("broken"), n.hostPod("host")
	runs, ends := n.run(p, "broken", "runs", "exec sleep 1000", ""), n.run(p, "broken", "ends", obeying, "")
	removed := n.run(p, "broken", "removed", "exit 3", "")
	n.ended(removed)
	n.must(n.BreakDisk())
	n.eventually(func() bool { return errors.Is(os.WriteFile(n.Root+"/new", nil, 0o600), syscall.EROFS) })

	if out, err := n.RunPod("new"); err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("a new pod: %q, %v", out, err)
	}
	if got := n.exec(runs, "echo", "here"); got != "here" {
		t.Errorf("exec: %q", got)
	}
	n.terminate(n.pid(ends))
	n.ended(ends)
	n.crictl("stop", "-t", "0", runs)
	n.crictl("stopp", p, host)
	seen := func(when string) {
		t.Helper()
		if got := n.crictl("pods", "-q", "--state", "Ready"); got != "" {
			t.Errorf("%s these are ready: %s", when, got)
		}
		for id, code := range map[string]int{runs: 137, ends: 42, removed: 3} {
			if c := n.container(id); c.Status.State != "CONTAINER_EXITED" || c.Status.ExitCode != code {
				t.Errorf("%s: want exit code %d, got %+v", when, code, c.Status)
			}
		}
	}
	seen("on the broken disk")
	leases, err := exec.Command(programs.Bin+"/bridge-ipam", "leases", "--data-dir", n.Base+"/leases").CombinedOutput()
	if err != nil || strings.Count(string(leases), "\n") != 1 { // the head
		t.Errorf("addresses are not given back: %v: %s", err, leases)
	}
	if out, err := n.Crictl("rm", removed); err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("a removal: %q, %v", out, err)
	}
	seen("after a removal that failed")

	n.must(n.Kill())
	n.eventually(func() bool { return n.UnmountDisk() == nil }) // nothing of a pod that is stopped holds it
	n.must(n.MountDisk())
	n.must(n.Start())
	seen("after the repair")
	n.crictl("rmp", p, host)
	n.run(n.pod("new"), "new", "main", "exec sleep 1000", "")
}

// TestFullState: the same for the file system of the state directory, /run on most nodes, which others fill.
func TestFullState(t *testing.T) {
	n := newNode(t)
	p := n.pod("full")
	runs := n.run(p, "full", "runs", "exec sleep 1000", "")
	ends := n.run(p, "full", "ends", obeying, "")
	stops := n.run(p, "full", "stops", "exec sleep 1000", "")
	waits, err := n.CreateContainer(p, "full", sleeper("waits"))
	n.must(err)
	pid := n.pid(runs)
	filler := n.fillState()

	n.refusesMore(p, waits)
	n.terminate(n.pid(ends))
	n.eventually(func() bool { return n.container(ends).Status.State == "CONTAINER_EXITED" })
	n.crictl("stop", "-t", "0", stops)
	n.must(n.Kill())
	n.must(n.Start())
	if c := n.container(ends); c.Status.State != "CONTAINER_EXITED" || c.Status.ExitCode != 42 {
		t.Errorf("after a restart: %+v", c.Status)
	}
	if got := n.pid(runs); got != pid {
		t.Errorf("the process is %d, and was %d", got, pid)
	}
	n.crictl("rm", ends, stops)
	n.must(os.Remove(filler))
	if got := n.exec(runs, "echo", "here"); got != "here" {
		t.Errorf("exec: %q", got)
	}
	n.fillState()
	n.crictl("rmp", "-f", p)
	if left, _ := filepath.Glob(n.State + "/bundles/*"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// fillState leaves no room on the file system of the state directory, and returns the file that takes it.
func (n *tester) fillState() string {
	n.t.Helper()
	n.must(syscall.Mount("", n.State, "", syscall.MS_REMOUNT|syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "size=4m"))
	f, err := os.Create(n.State + "/filler")
	n.must(err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		n.t.Fatal(err)
	}
	return f.Name()
}
