package rootfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/bundle"
	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/podns"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// host is a Maker with directories of its own and one image layer with a static busybox.
type host struct {
	t      *testing.T
	m      *Maker
	p      *podns.Pinner
	layout paths.Layout
	parent string
	layer  string
}

func newHost(t *testing.T) *host {
	t.Helper()
	nettest.RequireRoot(t)
	base := t.TempDir()
	h := &host{t: t, layout: paths.Layout{Root: base + "/root", State: base + "/state"}, layer: base + "/layer", parent: "/podwright-rootfs-" + filepath.Base(filepath.Dir(base))}
	h.mountState()
	facts, err := hostinfo.Collect()
	if err != nil {
		t.Fatal(err)
	}
	h.m, err = New(Options{Layout: h.layout, Facts: facts, Cgroups: bundle.Cgroups{Parent: h.parent}})
	if err != nil {
		t.Fatal(err)
	}
	h.p = podns.New(h.layout)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	h.write("bin/busybox", string(busybox), 0o755)
	h.write("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n", 0o644)
	h.write("etc/group", "root:x:0:\napp:x:1001:\nextra:x:2000:app\n", 0o644)
	for _, dir := range []string{"proc", "dev", "sys", "tmp", "data"} {
		if err := os.MkdirAll(filepath.Join(h.layer, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write("data/seed", "seed", 0o644)
	return h
}

// mountState makes the state directory what /run is where an initramfs has mounted it.
func (h *host) mountState() {
	h.t.Helper()
	err := os.Mkdir(h.layout.State, 0o711)
	if err = errors.Join(err, unix.Mount("tmpfs", h.layout.State, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0711")); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := unix.Unmount(h.layout.State, 0); err != nil {
			h.t.Errorf("something is still mounted below the state directory: %v", err)
		}
	})
}

func (h *host) write(path, content string, mode os.FileMode) {
	h.t.Helper()
	path = filepath.Join(h.layer, path)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err = errors.Join(err, os.WriteFile(path, []byte(content), mode)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) image(change func(*imagespec.ImageConfig)) pod.Image {
	img := pod.Image{ID: "sha256:x", Layers: []string{h.layer}, Config: imagespec.ImageConfig{Entrypoint: []string{"/bin/busybox"}, Cmd: []string{"true"}}}
	if change != nil {
		change(&img.Config)
	}
	return img
}

func sandbox(id pod.ID) pod.Sandbox {
	return pod.Sandbox{ID: id, Config: pod.SandboxConfig{
		Name: "p", Hostname: "the-pod", Namespaces: pod.Namespaces{Network: pod.ModePod, PID: pod.ModePod, IPC: pod.ModePod},
		Sysctls: map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}, DNS: &pod.DNS{Servers: []string{"1.2.3.4"}},
	}}
}

// sandbox makes the namespaces and shared files of a pod.
func (h *host) sandbox(s pod.Sandbox) {
	h.t.Helper()
	if err := h.p.Pin(h.t.Context(), s); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := errors.Join(h.m.RemoveSandbox(h.t.Context(), s.ID), h.p.Unpin(s.ID)); err != nil {
			h.t.Error(err)
		}
		for _, dir := range []string{h.layout.Shared(string(s.ID)), h.layout.Bundle(string(s.ID)), h.layout.Namespaces(string(s.ID))} {
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				h.t.Errorf("left: %s", dir)
			}
		}
		all, _ := filepath.Glob("/sys/fs/cgroup/*" + h.parent)
		for _, dir := range append(all, "/sys/fs/cgroup"+h.parent) {
			_ = os.Remove(dir)
		}
	})
	if err := h.m.PrepareSandbox(h.t.Context(), s); err != nil {
		h.t.Fatal(err)
	}
}

func container(id pod.ID, script string) pod.Container {
	return pod.Container{ID: id, Config: pod.ContainerConfig{
		Name: "c", Command: []string{"/bin/busybox", "sh", "-c", script},
		Namespaces: pod.Namespaces{Network: pod.ModePod, PID: pod.ModeContainer, IPC: pod.ModePod},
		Security: pod.Security{
			Seccomp: pod.Profile{Kind: pod.ProfileDefault}, NoNewPrivileges: true,
			MaskedPaths: []string{"/proc/kcore", "/proc/no/such"}, ReadonlyPaths: []string{"/proc/sys"},
		},
	}}
}

// run prepares a container, runs it to its end on the real runtime, and returns its output.
func (h *host) run(s pod.Sandbox, c pod.Container, img pod.Image) string {
	h.t.Helper()
	if _, _, err := h.m.Prepare(h.t.Context(), s, c, pod.ContainerImages{Root: img}); err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		if err := h.m.Remove(h.t.Context(), s.ID, c.ID); err != nil {
			h.t.Error(err)
		}
		if _, err := os.Lstat(h.layout.Bundle(string(c.ID))); !errors.Is(err, os.ErrNotExist) {
			h.t.Error("the bundle is left")
		}
	}()
	cmd := exec.Command("runc", "--root", h.layout.RuncRoot(), "run", "--bundle", h.layout.Bundle(string(c.ID)), string(c.ID))
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestContainerSeesWhatWasAsked(t *testing.T) {
	h := newHost(t)
	s := sandbox("s1")
	h.sandbox(s)
	vol := filepath.Join(t.TempDir(), "vol")
	if err := os.Mkdir(vol, 0o755); err != nil {
		t.Fatal(err)
	}
	c := container("c1", `
b=/bin/busybox
echo host $($b hostname)
echo id $($b id -u) $($b id -g) $($b id -G)
echo env $A $B $HOSTNAME $HOME
echo cwd $($b pwd)
echo caps $($b grep CapEff /proc/self/status | $b cut -f2) $($b grep NoNewPrivs /proc/self/status | $b cut -f2) $($b grep Seccomp: /proc/self/status | $b cut -f2)
echo pid $$
echo resolv $($b cat /etc/resolv.conf)
echo kcore $($b head -c 10 /proc/kcore | $b wc -c)
echo ro $($b touch /vol/x 2>&1)
echo data $($b cat /data/seed)
echo sysctl $($b cat /proc/sys/kernel/shm_rmid_forced) $($b cat /proc/sys/net/ipv4/ip_forward) $($b cat /proc/sys/net/ipv4/ip_unprivileged_port_start)
echo lo $($b ip -o addr show lo | $b grep -c 127.0.0.1)
$b touch /made; echo rootfs $?
echo fds $($b ls /proc/self/fd)
`)
	user, group := int64(1000), int64(1001)
	c.Config.Security.RunAsUser, c.Config.Security.RunAsGroup = &user, &group
	c.Config.Security.SupplementalGroups = []int64{3000}
	c.Config.Env = []pod.EnvVar{{Key: "B", Value: []byte("new")}}
	c.Config.WorkingDir = "/tmp"
	c.Config.Mounts = []pod.Mount{{ContainerPath: "/vol", HostPath: vol, Readonly: true}}
	got := h.run(s, c, h.image(func(i *imagespec.ImageConfig) {
		i.Env = []string{"A=a", "B=old"}
		i.Volumes = map[string]struct{}{"/data": {}}
	}))
	for _, want := range []string{
		"host the-pod", "id 1000 1001 1001 2000 3000", "env a new the-pod /home/app", "cwd /tmp", "caps 0000000000000000 1 2", "pid 1",
		"resolv nameserver 1.2.3.4", "kcore 0", "ro touch: /vol/x: Read-only file system", "data seed", "sysctl 1 1 0", "lo 1", "rootfs 1", "fds 0 1 2 3",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no line %q in\n%s", want, got)
		}
	}
	if v, _ := os.ReadFile("/proc/sys/kernel/shm_rmid_forced"); strings.TrimSpace(string(v)) != "0" {
		t.Errorf("the sysctl changed the host: %s", v)
	}
}

func TestPrivilegedAndHostNamespaces(t *testing.T) {
	h := newHost(t)
	s := sandbox("s2")
	s.Config.Privileged, s.Config.Sysctls = true, nil
	s.Config.Namespaces = pod.Namespaces{Network: pod.ModeNode, PID: pod.ModeNode, IPC: pod.ModeNode}
	h.sandbox(s)
	c := container("c2", `b=/bin/busybox; echo caps $($b grep CapEff /proc/self/status | $b cut -f2); echo net $($b readlink /proc/self/ns/net); echo pid $($b readlink /proc/self/ns/pid); test -e /dev/loop-control -o -e /dev/kmsg && echo dev`)
	c.Config.Privileged = true
	c.Config.Namespaces = s.Config.Namespaces
	got := h.run(s, c, h.image(nil))
	net, _ := os.Readlink("/proc/self/ns/net")
	pid, _ := os.Readlink("/proc/self/ns/pid")
	status, _ := os.ReadFile("/proc/self/status")
	_, bnd, _ := strings.Cut(string(status), "CapBnd:\t")
	for _, want := range []string{"net " + net, "pid " + pid, "caps " + bnd[:16], "dev"} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no line %q in\n%s", want, got)
		}
	}
}

// TestSharedPID runs the pod's init and a container that joins its PID namespace.
func TestSharedPID(t *testing.T) {
	h := newHost(t)
	s := sandbox("s3")
	h.sandbox(s)
	if err := h.m.PrepareInit(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	run := exec.Command("runc", "--root", h.layout.RuncRoot(), "run", "--detach", "--pid-file", pidFile, "--bundle", h.layout.Bundle("s3"), "s3")
	if err := run.Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("runc", "--root", h.layout.RuncRoot(), "delete", "--force", "s3").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	var pid int
	data, _ := os.ReadFile(pidFile)
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	if err := h.p.PinPID("s3", pid); err != nil {
		t.Fatal(err)
	}
	c := container("c3", "/bin/busybox cat /proc/1/comm")
	c.Config.Namespaces.PID = pod.ModePod
	if got := h.run(s, c, h.image(nil)); got != "pause\n" {
		t.Errorf("process 1 is %q", got)
	}
}

func TestBadInputLeavesNothing(t *testing.T) {
	h := newHost(t)
	s := sandbox("s4")
	h.sandbox(s)
	big := int64(1) << 31
	for name, change := range map[string]func(*pod.ContainerConfig, *imagespec.ImageConfig){
		"mount source": func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) {
			c.Mounts = []pod.Mount{{ContainerPath: "/x", HostPath: "/no/such"}}
		},
		"group without user": func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) { c.Security.RunAsGroup = new(int64) },
		"user too large":     func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) { c.Security.RunAsUser = &big },
		"unknown user":       func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) { c.Security.RunAsUsername = "nobody-here" },
		"image user":         func(_ *pod.ContainerConfig, i *imagespec.ImageConfig) { i.User = "4294967296" },
		"image user signed":  func(_ *pod.ContainerConfig, i *imagespec.ImageConfig) { i.User = "-1" },
		"capability":         func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) { c.Security.AddCapabilities = []string{"FLY"} },
		"seccomp": func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) {
			c.Security.Seccomp = pod.Profile{Kind: pod.ProfileLocalhost, Ref: "/no/such"}
		},
		"cwd":        func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) { c.WorkingDir = "/proc/self/fd/7" },
		"privileged": func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) { c.Privileged = true },
		"stop":       func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) { c.StopSignal = "SIGNOPE" },
		"volume":     func(_ *pod.ContainerConfig, i *imagespec.ImageConfig) { i.Volumes = map[string]struct{}{"/../..": {}} },
		"command": func(c *pod.ContainerConfig, i *imagespec.ImageConfig) {
			c.Command, i.Entrypoint, i.Cmd = nil, nil, nil
		},
		"propagation": func(c *pod.ContainerConfig, _ *imagespec.ImageConfig) {
			c.Mounts = []pod.Mount{{ContainerPath: "/x", HostPath: "/proc", RecursiveReadonly: true}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := container("bad", "true")
			img := h.image(nil)
			change(&c.Config, &img.Config)
			_, _, err := h.m.Prepare(t.Context(), s, c, pod.ContainerImages{Root: img})
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("got %v", err)
			}
			for _, path := range []string{h.layout.Bundle("bad"), h.layout.Upper("s4", "bad"), h.layout.Work("s4", "bad")} {
				if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("left: %s", path)
				}
			}
		})
	}
}

// TestHostilePasswd: nothing in an image's passwd may block, or read the host's.
func TestHostilePasswd(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want error
	}{
		"fifo":       {func(p string) error { return unix.Mkfifo(p, 0o644) }, errdefs.ErrInvalidArgument},
		"host link":  {func(p string) error { return os.Symlink("../../../../../../etc/passwd", p) }, unix.ELOOP},
		"other link": {func(p string) error { return os.Symlink("/proc/self/mem", p) }, nil},
		"huge": {func(p string) error {
			return errors.Join(os.WriteFile(p, nil, 0o644), os.Truncate(p, 1<<40))
		}, errdefs.ErrInvalidArgument},
		"large": {func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("\n"), 10<<20+1), 0o644) }, errdefs.ErrInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := c.make(filepath.Join(dir, "etc/passwd")); err != nil {
				t.Fatal(err)
			}
			r, err := openRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer r.close()
			u, err := r.user(pod.Security{}, "")
			if !errors.Is(err, c.want) || (err == nil && u.UID != 0) {
				t.Errorf("got %+v, %v", u, err)
			}
		})
	}
}

func TestNumericUserIsNeverAName(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("1234:x:0:0::/:\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	r, err := openRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	u, err := r.user(pod.Security{}, "1234")
	if err != nil || u.UID != 1234 || u.GID != 0 {
		t.Errorf("got %+v, %v", u, err)
	}
}

func TestManyLayers(t *testing.T) {
	h := newHost(t)
	layers := manyLayers(t)
	if err := h.m.mountRoot(pod.Sandbox{ID: "s"}, "many", layers, ""); err != nil {
		t.Fatal(err)
	}
	topIs119(t, h.layout.Rootfs("many"))
	if err := h.m.Remove(t.Context(), "s", "many"); err != nil {
		t.Error(err)
	}
}

// TestManyLayersBefore65: the same on a kernel that takes no layers one by one.
func TestManyLayersBefore65(t *testing.T) {
	newHost(t)
	layers := manyLayers(t)
	slices.Reverse(layers)
	dir := t.TempDir()
	target, upper, work := filepath.Join(dir, "target"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{target, upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := mountByDescriptors(target, layers, upper, work, ""); err != nil {
		t.Fatal(err)
	}
	topIs119(t, target)
	if err := unmount(target); err != nil {
		t.Error(err)
	}
}

// manyLayers are 120, the lowest first, whose names do not fit into a page.
func manyLayers(t *testing.T) []string {
	t.Helper()
	var layers []string
	for i := range 120 {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "top"), fmt.Append(nil, i), 0o644)); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, dir)
	}
	return layers
}

func topIs119(t *testing.T, root string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(root, "top"))
	if err != nil || string(got) != "119" {
		t.Errorf("the top layer says %q, %v", got, err)
	}
}

func TestSpecHasNoPodAnnotations(t *testing.T) {
	h := newHost(t)
	s := sandbox("s5")
	s.Config.Annotations = map[string]string{"run.oci.keep_original_groups": "1"}
	h.sandbox(s)
	c := container("c5", "true")
	c.Config.Annotations = map[string]string{"org.systemd.property.ExecStart": "x"}
	if _, _, err := h.m.Prepare(t.Context(), s, c, pod.ContainerImages{Root: h.image(nil)}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(h.layout.Bundle("c5"), "config.json"))
	var spec specs.Spec
	if err = errors.Join(err, json.Unmarshal(data, &spec), h.m.Remove(t.Context(), s.ID, c.ID)); err != nil {
		t.Fatal(err)
	}
	if len(spec.Annotations) != 0 {
		t.Errorf("annotations reach the runtime: %v", spec.Annotations)
	}
}
