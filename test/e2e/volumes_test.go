package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const volumeImage = "podwright.test/user:1000"

func imageMount(sub, extra string) string {
	return fmt.Sprintf(`"mounts": [{"container_path": "/vol", "image": {"image": "%s"}, "image_sub_path": "%s", "readonly": true%s}]`, volumeImage, sub, extra)
}

// TestImageVolume mounts an image into containers of another one, whole and in part.
func TestImageVolume(t *testing.T) {
	n := newNode(t)
	n.crictl("pull", volumeImage)
	p := n.pod("volume")
	whole := n.run(p, "volume", "whole", "sleep 1000", imageMount("", ""))
	if got := n.exec(whole, "/vol/bin/ls", "/vol/etc/passwd"); got != "/vol/etc/passwd" {
		t.Errorf("a program of the mounted image says %q", got)
	}
	if out, err := n.Crictl("exec", "--sync", whole, "touch", "/vol/new"); err == nil || !strings.Contains(err.Error(), "Read-only file system") {
		t.Errorf("written: %s, %v", out, err)
	}
	part := n.run(p, "volume", "part", "sleep 1000", imageMount("etc/passwd", ""))
	if got := n.exec(part, "head", "-c", "4", "/vol"); got != "root" {
		t.Errorf("a file of the image holds %q", got)
	}
	// A pull or a removal of the image changes nothing for those that have it.
	n.crictl("rmi", volumeImage)
	n.must(n.Kill())
	n.must(n.Start())
	if got := n.exec(whole, "/vol/bin/echo", "here"); got != "here" {
		t.Errorf("after the removal: %q", got)
	}
}

func TestImageVolumeRefused(t *testing.T) {
	n := newNode(t)
	p := n.pod("refused")
	create := func(mounts string) error {
		_, err := n.RunContainer(p, "refused", "bad", image, "true", mounts)
		return err
	}
	if err := create(imageMount("", "")); err == nil || !strings.Contains(err.Error(), "desc = ImageVolumeMountFailed: ") {
		t.Errorf("an image that is not here: %v", err)
	}
	n.crictl("pull", volumeImage)
	for _, sub := range []string{"no/such", "etc/passwd/x"} {
		if err := create(imageMount(sub, "")); err == nil || !strings.Contains(err.Error(), "desc = ImageVolumeMountFailed: ") {
			t.Errorf("%s: %v", sub, err)
		}
	}
	if err := create(imageMount("../etc", "")); err == nil || !strings.Contains(err.Error(), "InvalidArgument") {
		t.Errorf("a path that climbs: %v", err)
	}
	if got := n.crictl("ps", "-a", "-q"); got != "" {
		t.Errorf("left: %s", got)
	}
}

// TestUserNamespace runs a pod whose root is nobody on the host, by the newest runc.
func TestUserNamespace(t *testing.T) {
	n := prepareNode(t)
	n.must(n.AddHandler("newest", filepath.Join(programs.Tools, "runc")))
	n.must(n.Start())
	n.crictl("pull", image)
	const mapping = `[{"container_id": 0, "host_id": 200000, "length": 65536}]`
	const options = `"userns_options": {"mode": 0, "uids": ` + mapping + `, "gids": ` + mapping + `}`
	for _, share := range []bool{false, true} {
		t.Run(fmt.Sprintf("share PID %t", share), func(t *testing.T) {
			name := fmt.Sprintf("mapped-%t", share)
			file, err := n.File("pod-"+name+".json", strings.Replace(n.PodJSON(name, share), `"ipc": 0`, `"ipc": 0, `+options, 1))
			n.must(err)
			checkMapped(t, n, n.crictl("runp", "--runtime", "newest", file), name, mapping)
		})
	}
}

// TestUserNamespaceWithHostNetwork runs a pod whose root is nobody on the host, in the host's network.
func TestUserNamespaceWithHostNetwork(t *testing.T) {
	n := prepareNode(t)
	n.must(n.AddHandler("newest", filepath.Join(programs.Tools, "runc")))
	n.must(n.Start())
	n.crictl("pull", image)
	const mapping = `[{"container_id": 0, "host_id": 200000, "length": 65536}]`
	for _, share := range []bool{false, true} {
		name := fmt.Sprintf("mapped-%t", share)
		config := strings.NewReplacer(`"network": 0`, `"network": 2`, `"ipc": 0`, `"ipc": 0, "userns_options": {"mode": 0, "uids": `+mapping+`, "gids": `+mapping+`}`,
			`"hostname": "`+name+`",`, "").Replace(n.PodJSON(name, share))
		file, err := n.File("pod-"+name+".json", config)
		n.must(err)
		p := n.crictl("runp", "--runtime", "newest", file)
		checkMapped(t, n, p, name, mapping)
		id := n.run(p, name, "second", "sleep 1000", "")
		host, err := os.Readlink("/proc/self/ns/net")
		n.must(err)
		if got := n.exec(id, "readlink", "/proc/self/ns/net"); got != host {
			t.Errorf("its network is %s, the host's is %s", got, host)
		}
		// The host's /sys, and nothing in it can be changed: neither by a file nor by a mount below. With cgroup v1,
		// the OCI runtime mounts a tmpfs of the pod's root for the hierarchies.
		if got := n.exec(id, "sh", "-c", "test -e /sys/class/net/lo && echo seen; awk '$5 ~ \"^/sys\" && $6 !~ \"^ro\" && !/uid=200000/ {print $5}' /proc/self/mountinfo"); got != "seen" {
			t.Errorf("in /sys: %s", got)
		}
	}
}

func checkMapped(t *testing.T, n *tester, p, name, mapping string) {
	volume := t.TempDir()
	n.must(os.Chmod(filepath.Dir(volume), 0o711))
	extra := fmt.Sprintf(`"mounts": [{"container_path": "/vol", "host_path": "%s", "uidMappings": %s, "gidMappings": %s}]`, volume, mapping, mapping)
	id := n.run(p, name, "main", "touch /made /vol/made /dev/shm/made && cat /proc/self/uid_map; sleep 1000", extra)
	n.eventually(func() bool { return strings.Contains(n.crictl("logs", id), "200000") })
	if got := strings.Fields(n.crictl("logs", id)); strings.Join(got, " ") != "0 200000 65536" {
		t.Errorf("uid_map is %v", got)
	}
	if got := n.exec(id, "sh", "-c", "echo $(id -u) $(stat -c %u /made /vol/made /etc/hosts /bin/busybox)"); got != "0 0 0 0 0" {
		t.Errorf("inside, the owners are %s", got)
	}
	// Its root owns no file of the host's proc: what nothing masks is not its to write, and its cgroup is below the pod's.
	const unmasked = "for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/cgroup.procs; do [ -e $f ] && (echo 1 >$f) 2>/dev/null && echo WROTE $f; done; true"
	if got := n.exec(id, "sh", "-c", unmasked); got != "" {
		t.Errorf("unmasked: %s", got)
	}
	upper := n.Root + "/pods/" + p + "/containers/" + id + "/upper/made"
	// A volume keeps the owners that the pod sees, so that another pod, of other ids, can use it.
	for path, want := range map[string]uint32{upper: 200000, volume + "/made": 0} {
		fi, err := os.Stat(path)
		n.must(err)
		if got := fi.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("on the host, %s is of %d, want %d", path, got, want)
		}
	}
	pid := n.pid(id)
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	n.must(err)
	if !strings.Contains(string(cgroups), n.CgroupParent+"/") {
		t.Errorf("its cgroups are %s", cgroups)
	}
	out, err := exec.Command("stat", "-c", "%u", fmt.Sprintf("/proc/%d", pid)).Output()
	n.must(err)
	if got := strings.TrimSpace(string(out)); got != "200000" {
		t.Errorf("on the host, its root is %s", got)
	}
}

// TestUserNamespaceRefused: a runtime that maps no ids says so, and nothing runs without.
func TestUserNamespaceRefused(t *testing.T) {
	if out, _ := exec.Command("runc", "features").Output(); strings.Contains(string(out), "idmap") {
		t.Skip("the runc of this host can")
	}
	n := newNode(t)
	const mapping = `[{"container_id": 0, "host_id": 200000, "length": 65536}]`
	file, err := n.File("pod-mapped.json", strings.Replace(n.PodJSON("mapped", false), `"ipc": 0`,
		`"ipc": 0, "userns_options": {"mode": 0, "uids": `+mapping+`, "gids": `+mapping+`}`, 1))
	n.must(err)
	if _, err := n.Crictl("runp", file); err == nil || !strings.Contains(err.Error(), "makes no ID-mapped mounts") {
		t.Errorf("got %v", err)
	}
}
