package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/bundle"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func (h *host) link(path, target string) {
	h.t.Helper()
	path = filepath.Join(h.layer, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
		h.t.Fatal(err)
	}
}

// TestLinksOfTheImageStayInside: an image puts links to the host in the way of every place where something is mounted.
// Their targets are made inside its root, and nothing on the host (CVE-2024-45310, CVE-2024-5154).
func TestLinksOfTheImageStayInside(t *testing.T) {
	h := newHost(t)
	s := sandbox("s-links")
	h.sandbox(s)
	victim, source := t.TempDir(), t.TempDir()
	if err := os.WriteFile(source+"/file", []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 12) + victim[1:]
	h.link("absolute", victim)
	h.link("climbing", up)
	h.link("etc/resolv.conf", up+"/resolv.conf")
	h.link("etc/hosts", victim+"/hosts")
	h.link("etc/hostname", up+"/hostname")
	h.link("etc/mtab", up+"/mtab")
	c := container("c-links", "b=/bin/busybox; $b cat /absolute/made/file /climbing/file /etc/hostname; $b grep -c 1.2.3.4 /etc/resolv.conf; $b head -n 1 /etc/hosts")
	c.Config.Mounts = []pod.Mount{
		{ContainerPath: "/absolute/made", HostPath: source}, {ContainerPath: "/climbing/file", HostPath: source + "/file"},
	}
	if got := h.run(s, c, h.image(nil)); got != "minemine"+"the-pod\n1\n127.0.0.1	localhost\n" {
		t.Errorf("inside: %q", got)
	}
	if left, err := os.ReadDir(victim); err != nil || len(left) != 0 {
		t.Errorf("on the host: %v, %v", left, err)
	}
}

// TestVolumesOfTheImageStayInside: what an image has at the place of a VOLUME is copied to where the container gets it; a
// link there leads to nothing of the host (CVE-2022-23648).
func TestVolumesOfTheImageStayInside(t *testing.T) {
	h := newHost(t)
	s := sandbox("s-volumes")
	h.sandbox(s)
	victim := t.TempDir()
	if err := os.WriteFile(victim+"/secret", []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.link("absolute", victim)
	h.link("climbing", strings.Repeat("../", 12)+victim[1:])
	h.link("inside", "/data")
	img := h.image(func(i *imagespec.ImageConfig) {
		i.Volumes = map[string]struct{}{"/absolute": {}, "/climbing": {}, "/inside": {}}
	})
	if got := h.run(s, container("c-volumes", "b=/bin/busybox; $b find /absolute/ /climbing/ -type f; $b cat /inside/seed"), img); got != "seed" {
		t.Errorf("inside: %q", got)
	}
}

// TestSourceIsTheMountThatItWas: a kubelet pins what a sub-path leads to by a mount of its own, and gives that as the
// source. What becomes of the volume's path afterwards changes nothing (CVE-2017-1002101, CVE-2021-25741).
func TestSourceIsTheMountThatItWas(t *testing.T) {
	h := newHost(t)
	s := sandbox("s-sub")
	h.sandbox(s)
	volume, secret, pinned := t.TempDir(), t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(volume+"/sub", 0o755), os.WriteFile(volume+"/sub/file", []byte("volume"), 0o644),
		os.WriteFile(secret+"/file", []byte("secret"), 0o644), unix.Mount(volume+"/sub", pinned, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(pinned, unix.MNT_DETACH) }()
	if err := errors.Join(os.Rename(volume+"/sub", volume+"/old"), os.Symlink(secret, volume+"/sub")); err != nil {
		t.Fatal(err)
	}
	c := container("c-sub", "/bin/busybox cat /v/file")
	c.Config.Mounts = []pod.Mount{{ContainerPath: "/v", HostPath: pinned}}
	if got := h.run(s, c, h.image(nil)); got != "volume" {
		t.Errorf("got %q", got)
	}
}

// TestMountedFilesAreNotReplaced: a kubelet reads the file that it mounted for the message of a container's end. The
// container has all rights of its root, and cannot put a link or a FIFO there instead.
func TestMountedFilesAreNotReplaced(t *testing.T) {
	h := newHost(t)
	s := sandbox("s-term")
	h.sandbox(s)
	message := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(message, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	before, err := os.Lstat(message)
	if err != nil {
		t.Fatal(err)
	}
	c := container("c-term", `b=/bin/busybox; f=/dev/termination-log
$b rm -f $f; $b ln -sf /etc/passwd $f; $b ln -s /etc/passwd /l; $b mv /l $f; $b mkfifo /p; $b mv /p $f; $b umount $f; $b umount -l $f
echo -n said 1<>$f; true`)
	c.Config.Mounts = []pod.Mount{{ContainerPath: "/dev/termination-log", HostPath: message}}
	out := h.run(s, c, h.image(nil))
	after, err := os.Lstat(message)
	if err != nil || !os.SameFile(before, after) || !after.Mode().IsRegular() {
		t.Errorf("it is %v, %v:\n%s", after, err, out)
	}
	if got, err := os.ReadFile(message); err != nil || string(got) != "said" {
		t.Errorf("it says %q, %v:\n%s", got, err, out)
	}
}

// TestHomeIsNoLineOfPasswd: a user who is not in the image's passwd is not put there, so that no variable can put
// others there (CVE-2022-4318).
func TestHomeIsNoLineOfPasswd(t *testing.T) {
	h := newHost(t)
	s := sandbox("s-home")
	h.sandbox(s)
	want, err := os.ReadFile(h.layer + "/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	uid := int64(4242)
	for i, home := range []string{"/\nroot2:x:0:0::/:/bin/sh", `/\nroot2:x:0:0::/:/bin/sh`, "/:0:0"} {
		c := container(pod.ID(fmt.Sprintf("c-home%d", i)), "/bin/busybox cat /etc/passwd; /bin/busybox id -u")
		c.Config.Security.RunAsUser = &uid
		c.Config.Env = []pod.EnvVar{{Key: "HOME", Value: []byte(home)}}
		if got := h.run(s, c, h.image(nil)); got != string(want)+"4242\n" {
			t.Errorf("%q: %q", home, got)
		}
	}
}

// TestTextsOfUsersChangeNothing: annotations and labels, of a pod, a container or an image, that mean something to a
// runtime, a hook, a device or a cgroup elsewhere, leave the configuration as it is to the byte (CVE-2023-6476,
// CVE-2024-3154, CVE-2026-53488), and no hook comes from an image.
func TestTextsOfUsersChangeNothing(t *testing.T) {
	h := newHost(t)
	texts := map[string]string{
		"run.oci.keep_original_groups": "1", "run.oci.hooks.stderr": "/etc/x", "org.systemd.property.ExecStartPre": "['/bin/sh']",
		"io.kubernetes.cri-o.unified-cgroup.main": "memory.max=max", "io.kubernetes.cri-o.userns-mode": "auto", "io.kubernetes.cri-o.Devices": "/dev/mem:/dev/mem:rwm",
		"cdi.k8s.io/vendor": "podwright.test/null=one", "io.katacontainers.config_path": "/etc/x", "io.containerd.rootless": "true",
		"hooks.nri.io/container": "/bin/sh", "devices.nri.io/pod": "- path: /dev/mem", "org.opencontainers.image.stopSignal": "SIGNOPE",
	}
	config := func(texts map[string]string) []byte {
		s, c := sandbox("s-texts"), container("c-texts", "true")
		s.Config.Annotations, s.Config.Labels, c.Config.Annotations, c.Config.Labels = texts, texts, texts, texts
		img := h.image(func(i *imagespec.ImageConfig) { i.Labels = texts })
		if _, _, err := h.m.Prepare(t.Context(), s, c, pod.ContainerImages{Root: img}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(h.layout.Bundle(string(c.ID)), "config.json"))
		if err = errors.Join(err, h.m.Remove(t.Context(), s.ID, c.ID)); err != nil {
			t.Fatal(err)
		}
		return data
	}
	plain, hostile := config(nil), config(texts)
	if !bytes.Equal(plain, hostile) {
		t.Errorf("without: %s\nwith: %s", plain, hostile)
	}
	if bytes.Contains(hostile, []byte(`"hooks"`)) || bytes.Contains(hostile, []byte(`"annotations"`)) {
		t.Errorf("got %s", hostile)
	}
}

// TestPrivilegedDevices: a privileged container has all of the host's devices and those that it asks for, at the paths
// that it asks for; with a handler that says so, the latter only.
func TestPrivilegedDevices(t *testing.T) {
	c := pod.ContainerConfig{Privileged: true, Devices: []pod.Device{
		{HostPath: "/dev/zero", ContainerPath: "/dev/other", Permissions: "rw"}, {HostPath: "/dev/zero", ContainerPath: "/dev/full", Permissions: "rw"},
	}}
	minors := func(h bundle.Handler) map[string]int64 {
		nodes, _, err := devices(c, h)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]int64{}
		for _, n := range nodes {
			if _, twice := out[n.Path]; twice {
				t.Errorf("%s is there twice", n.Path)
			}
			out[n.Path] = n.Minor
		}
		return out
	}
	const zero, null = 5, 3
	for _, h := range []bundle.Handler{{}, {NoHostDevices: true}, {NoHostDevices: true, AllDevices: true}} {
		got := minors(h)
		_, hosts := got["/dev/null"]
		if hosts == h.NoHostDevices || got["/dev/other"] != zero || got["/dev/full"] != zero || hosts && got["/dev/null"] != null {
			t.Errorf("%+v: %v", h, got)
		}
	}
}

// TestDeviceNodes: a device is the node itself, by its numbers, and what is none is refused: a link cannot become
// another device later, and a file is not device 0:0.
func TestDeviceNodes(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Symlink("/dev/null", dir+"/link"), os.WriteFile(dir+"/file", nil, 0o600), os.Symlink("/nowhere", dir+"/dangling")); err != nil {
		t.Fatal(err)
	}
	ask := func(path string) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
		return devices(pod.ContainerConfig{Devices: []pod.Device{{HostPath: path, ContainerPath: "/dev/x", Permissions: "r"}}}, bundle.Handler{})
	}
	nodes, rules, err := ask(dir + "/link")
	if err != nil || len(nodes) != 1 || nodes[0].Path != "/dev/x" || nodes[0].Type != "c" || nodes[0].Major != 1 || nodes[0].Minor != 3 {
		t.Errorf("a link to /dev/null: %+v, %v", nodes, err)
	}
	// A rule without a number would be one for all of them.
	if len(rules) != 1 || rules[0].Type != "c" || rules[0].Access != "r" || rules[0].Major == nil || *rules[0].Major != 1 || rules[0].Minor == nil || *rules[0].Minor != 3 {
		t.Errorf("its rule: %+v", rules)
	}
	for name, path := range map[string]string{"file": dir + "/file", "no device in a directory, but a link to one": dir, "dangling": dir + "/dangling", "absent": dir + "/absent"} {
		if nodes, rules, err := ask(path); err == nil {
			t.Errorf("%s: %+v, %+v", name, nodes, rules)
		}
	}
	if os.Geteuid() != 0 {
		return // a user makes no node
	}
	if err := unix.Mknod(dir+"/node", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil { //nolint:gosec // it fits
		t.Fatal(err)
	}
	if nodes, rules, err := ask(dir); err != nil || len(rules) != 1 || len(nodes) != 1 || nodes[0].Path != "/dev/x/node" || nodes[0].Major != 1 || nodes[0].Minor != 5 {
		t.Errorf("a directory with one node and a link to another: %+v, %v", nodes, err)
	}
}

// TestSharedFilesAreBounded: a container writes all it can to the files that its pod shares. The host's file system
// stays as it was, and so do the files of another pod.
func TestSharedFilesAreBounded(t *testing.T) {
	h := newHost(t)
	s, other := sandbox("s-full"), sandbox("s-other")
	h.sandbox(s)
	h.sandbox(other)
	used := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(h.layout.State, &st); err != nil {
			t.Fatal(err)
		}
		return (st.Blocks - st.Bfree) * uint64(st.Bsize) //nolint:gosec // never negative
	}
	before := used()
	c := container("c-full", `b=/bin/busybox; for f in /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm/x; do $b dd if=/dev/zero of=$f bs=1M count=70 2>&1 | $b grep -o 'No space left'; done
$b stat -f -c %T /dev/shm; $b stat -c %a /dev/shm`)
	c.Config.Security.NoNewPrivileges = false
	if got := h.run(s, c, h.image(nil)); got != strings.Repeat("No space left\n", 4)+"tmpfs\n1777\n" {
		t.Errorf("inside: %q", got)
	}
	if grown := used() - before; grown > 1<<20 {
		t.Errorf("the host's file system has grown by %d bytes", grown)
	}
	if got := h.run(other, container("c-other", "/bin/busybox cat /etc/hostname; echo x >/dev/shm/x"), h.image(nil)); got != "the-pod\n" {
		t.Errorf("another pod: %q", got)
	}
}
