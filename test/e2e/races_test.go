package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCommandsGiveNothingAway: a process of the container that looks at every new process sees no file of the host
// and no OCI runtime while commands join it (CVE-2016-9962, CVE-2024-21626). Its own output, which it holds, has a name.
func TestCommandsGiveNothingAway(t *testing.T) {
	n := newNode(t)
	p := n.pod("spy")
	id := n.run(p, "spy", "main", `i=0; while :; do
 for f in /proc/[0-9]*/fd/* /proc/[0-9]*/exe /proc/[0-9]*/cwd /proc/[0-9]*/root; do l=$(readlink $f) && echo $f $l; done >/seen
 grep -E 'runc|podwright-|cgroup|memfd' /seen | grep -v '/std[a-z]*$' >>/found; i=$((i+1)); echo $i >/rounds
done`, "")
	rounds := func() string { return n.exec(id, "cat", "/rounds") }
	n.eventually(func() bool { _, err := n.Crictl("exec", "--sync", id, "cat", "/rounds"); return err == nil })
	before := rounds()
	cri := runtime.NewRuntimeServiceClient(n.dial())
	for range 40 {
		r, err := cri.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"ls", "/proc/self/fd"}})
		if got := strings.Fields(string(r.GetStdout())); err != nil || strings.Join(got, " ") != "0 1 2 3" { // 3 is the directory itself
			t.Fatalf("%v, %v", err, got)
		}
	}
	if after := rounds(); after == before {
		t.Fatalf("the spy stands at %s", after)
	}
	if found := n.exec(id, "sort", "-u", "/found"); found != "" {
		t.Errorf("seen:\n%s", found)
	}
	n.exec(id, "sh", "-c", "cd /sys/fs/cgroup && until grep -q cwd./sys/fs/cgroup /found; do sleep 0.1; done") // it does look at commands
}

// TestMountsUnderASwappedLink: one container swaps a directory of a shared volume for a link to / and back, while others
// are made with a mount below it. Nothing is mounted on the host (CVE-2021-30465), and nothing is made there
// (CVE-2024-45310): a runc before 1.1.14 makes the empty directory, which cri-shim warns of when it starts.
func TestMountsUnderASwappedLink(t *testing.T) {
	n := prepareNode(t)
	n.must(n.AddHandler("newest", filepath.Join(programs.Tools, "runc")))
	n.must(n.Start())
	n.crictl("pull", image)
	mountWhileSwapping(t, n, "")
	if mountWhileSwapping(t, n, "newest") {
		t.Error("a directory was made on the host")
	}
}

// mountWhileSwapping says whether a directory was made on the host. It is gone.
func mountWhileSwapping(t *testing.T, n *tester, handler string) bool {
	shared, target := t.TempDir(), t.TempDir()
	n.must(os.Mkdir(shared+"/at", 0o755))
	n.must(os.WriteFile(target+"/mine", nil, 0o644))
	volume := fmt.Sprintf(`{"container_path": "/vol", "host_path": %q}`, shared)
	name := "swap" + handler
	file, err := n.File("pod-"+name+".json", n.PodJSON(name, false))
	n.must(err)
	p := n.crictl("runp", "--runtime", handler, file)
	n.run(p, name, "swapper", `ln -s / /vol/link; while :; do
 mv -T /vol/at /vol/dir2 && mv -T /vol/link /vol/at; mv -T /vol/at /vol/link && mv -T /vol/dir2 /vol/at
done`, `"mounts": [`+volume+`]`)
	for _, want := range []os.FileMode{os.ModeDir, os.ModeSymlink, os.ModeDir} {
		n.eventually(func() bool {
			fi, err := os.Lstat(shared + "/at")
			return err == nil && fi.Mode().Type() == want
		})
	}
	made := "/" + filepath.Base(n.Base) + "-swapped"
	ran := 0
	for i := range 12 {
		mounts := fmt.Sprintf(`"mounts": [%s, {"container_path": "/vol/at%s", "host_path": %q}]`, volume, made, target)
		id, err := n.RunContainer(p, name, fmt.Sprintf("c%d", i), image, "sleep 1000", mounts)
		if err == nil { // whether it runs is a matter of luck
			ran++
			n.crictl("rm", "-f", id)
		}
	}
	t.Logf("handler %q: %d of 12 containers ran", handler, ran)
	n.crictl("rmp", "-f", p) // the volume is removed before the node
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	n.must(err)
	if strings.Contains(string(mounts), made) {
		t.Errorf("the host has a mount at %s", made)
	}
	if _, err := os.Lstat(made); err != nil {
		return false
	}
	n.must(os.Remove(made)) // empty, at most
	return true
}
