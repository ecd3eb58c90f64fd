package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// fakeFreezer notes what it is asked, and dumps one file.
type fakeFreezer struct {
	said    []string
	dumpErr error
}

func (f *fakeFreezer) Freeze(_ context.Context, ids []pod.ID) (func() error, error) {
	f.said = append(f.said, "freeze "+string(ids[0][:1]))
	thawed := false
	return func() error {
		if !thawed {
			thawed = true
			f.said = append(f.said, "thaw")
		}
		return nil
	}, nil
}

func (f *fakeFreezer) Dump(_ context.Context, id pod.ID, images, work string) error {
	f.said = append(f.said, "dump "+string(id[:1]))
	return errors.Join(f.dumpErr,
		os.WriteFile(filepath.Join(images, "inventory.img"), []byte("processes"), 0o600),
		os.WriteFile(filepath.Join(work, "dump.log"), []byte("log"), 0o600))
}

// lab is a pod with one container, whose root file system is a real overlay.
type lab struct {
	*Checkpoints
	freezer *fakeFreezer
	sandbox pod.Sandbox
	ctr     pod.Container
	spec    specs.Spec
	dir     string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	nettest.RequireRoot(t)
	dir := t.TempDir()
	l := &lab{freezer: &fakeFreezer{}, dir: dir, sandbox: pod.Sandbox{ID: pod.ID(strings.Repeat("5", 64))}}
	l.Checkpoints = New(Options{
		Layout: paths.Layout{Root: dir + "/root", State: dir + "/state"}, Freezer: l.freezer, CRIU: "criu",
		Runtimes: map[string]Runtime{"": {Path: "/usr/bin/runc", Checkpoints: true}},
	})
	l.spec = specs.Spec{
		Root: &specs.Root{}, Linux: &specs.Linux{CgroupsPath: "/a"},
		Process: &specs.Process{Args: []string{"sh"}, Env: []string{"A=secret", "B=2"}},
	}
	l.ctr = l.container(t, "a")
	return l
}

// container makes the files of one, of an image with /old, /hidden/below and /kept.
func (l *lab) container(t *testing.T, digit string) pod.Container {
	t.Helper()
	c := pod.Container{ID: pod.ID(strings.Repeat(digit, 64)), SandboxID: l.sandbox.ID, ImageID: "sha256:1", State: pod.Running}
	c.Config.Name = "main"
	lay, sb, id := l.opt.Layout, string(l.sandbox.ID), string(c.ID)
	lower, rootfs := l.dir+"/lower", lay.Rootfs(id)
	for _, d := range []string{lower + "/hidden", rootfs, lay.Upper(sb, id), lay.Work(sb, id), lay.Shared(sb) + "/shm"} {
		check(t, os.MkdirAll(d, 0o755))
	}
	for _, f := range []string{"/old", "/hidden/below", "/kept"} {
		check(t, os.WriteFile(lower+f, []byte("image"), 0o644))
	}
	check(t, unix.Mount("overlay", rootfs, "overlay", 0, "lowerdir="+lower+",upperdir="+lay.Upper(sb, id)+",workdir="+lay.Work(sb, id)))
	t.Cleanup(func() { check(t, unix.Unmount(rootfs, 0)) })
	data, err := json.Marshal(l.spec)
	check(t, err)
	check(t, os.WriteFile(lay.Bundle(id)+"/config.json", data, 0o600))
	return c
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRoundTrip: what a container changed, deleted and hid is so in the next one, and nothing else is left.
func TestRoundTrip(t *testing.T) {
	l := newLab(t)
	root := l.opt.Layout.Rootfs(string(l.ctr.ID))
	check(t, os.Remove(root+"/old"))
	check(t, os.RemoveAll(root+"/hidden"))
	check(t, os.Mkdir(root+"/hidden", 0o700))
	check(t, os.WriteFile(root+"/new", []byte("made"), 0o640))
	check(t, os.Chown(root+"/new", 7, 8))
	check(t, os.Symlink("/etc/shadow", root+"/link"))
	check(t, os.WriteFile(l.opt.Layout.Shared(string(l.sandbox.ID))+"/shm/word", []byte("w"), 0o600))
	out := t.TempDir()
	check(t, l.SavePod(t.Context(), l.sandbox, []pod.Container{l.ctr}, out))
	if got := strings.Join(l.freezer.said, ", "); got != "freeze a, dump a, thaw" {
		t.Errorf("order: %s", got)
	}
	if _, err := os.Lstat(l.opt.Layout.Dump(string(l.sandbox.ID), string(l.ctr.ID))); !os.IsNotExist(err) {
		t.Errorf("the dump directory stays: %v", err)
	}
	check(t, os.Remove(l.opt.Layout.Shared(string(l.sandbox.ID))+"/shm/word"))

	cfg := pod.SandboxConfig{}
	check(t, l.Check(out, cfg, []pod.ContainerConfig{l.ctr.Config}))
	next := l.container(t, "b")
	check(t, l.UnpackSandbox(t.Context(), out, l.sandbox))
	check(t, l.Unpack(t.Context(), out, next))
	root = l.opt.Layout.Rootfs(string(next.ID))
	for _, gone := range []string{"/old", "/hidden/below"} {
		if _, err := os.Lstat(root + gone); !os.IsNotExist(err) {
			t.Errorf("%s is back: %v", gone, err)
		}
	}
	var st unix.Stat_t
	check(t, unix.Lstat(root+"/new", &st))
	if st.Uid != 7 || st.Gid != 8 || st.Mode&0o777 != 0o640 {
		t.Errorf("/new: %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
	for file, want := range map[string]string{
		root + "/kept": "image", root + "/new": "made",
		l.opt.Layout.Shared(string(l.sandbox.ID)) + "/shm/word":                                "w",
		images(l.opt.Layout.Restore(string(l.sandbox.ID), string(next.ID))) + "/inventory.img": "processes",
	} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", file, got, err, want)
		}
	}
	if to, err := os.Readlink(root + "/link"); err != nil || to != "/etc/shadow" {
		t.Errorf("link: %q, %v", to, err)
	}
}

// TestFailuresLeaveNothing: containers are thawed and the directory is as it was.
func TestFailuresLeaveNothing(t *testing.T) {
	l := newLab(t)
	out := t.TempDir()
	l.freezer.dumpErr = errors.New("no")
	if err := l.SavePod(t.Context(), l.sandbox, []pod.Container{l.ctr}, out); err == nil {
		t.Error("a failed dump is a success")
	}
	l.freezer.dumpErr = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.SaveContainer(ctx, l.sandbox, l.ctr, out+"/c.tar"); !errors.Is(err, context.Canceled) {
		t.Errorf("after the deadline: %v", err)
	}
	if got := strings.Join(l.freezer.said, ", "); got != "freeze a, dump a, thaw, freeze a, thaw" {
		t.Errorf("order: %s", got)
	}
	if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	check(t, os.WriteFile(out+"/x", nil, 0o600))
	if err := l.SavePod(t.Context(), l.sandbox, []pod.Container{l.ctr}, out); !errdefs.IsInvalidArgument(err) {
		t.Errorf("into a directory that is not empty: %v", err)
	}
	if err := l.SaveContainer(t.Context(), l.sandbox, l.ctr, out+"/x"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("over a file: %v", err)
	}
	if err := l.SaveContainer(t.Context(), l.sandbox, l.ctr, out+"/no/x"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("into no directory: %v", err)
	}
}

// archiveOf is a well-formed archive with one more member.
func (l *lab) archiveOf(t *testing.T, extra *tar.Header, layer []byte) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	config, err := json.Marshal(metadata.ContainerConfig{RootfsImageRef: l.ctr.ImageID})
	check(t, err)
	spec, err := json.Marshal(l.spec)
	check(t, err)
	for name, data := range map[string][]byte{metadata.ConfigDumpFile: config, metadata.SpecDumpFile: spec, metadata.RootFsDiffTar: layer} {
		check(t, w.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o600, Typeflag: tar.TypeReg}))
		_, err := w.Write(data)
		check(t, err)
	}
	if extra != nil {
		check(t, w.WriteHeader(extra))
	}
	check(t, w.Close())
	return &out
}

func layerOf(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		check(t, w.WriteHeader(h))
	}
	check(t, w.Close())
	return out.Bytes()
}

// TestHostileArchives: no member leads out of the container's own directories.
func TestHostileArchives(t *testing.T) {
	l := newLab(t)
	empty := layerOf(t)
	check(t, l.unpack(t.Context(), l.archiveOf(t, nil, empty), l.ctr))
	for name, h := range map[string]*tar.Header{
		"a link":           {Name: "checkpoint/core-1.img", Linkname: "/etc/shadow", Typeflag: tar.TypeSymlink},
		"a hard link":      {Name: "checkpoint/core-1.img", Linkname: "config.dump", Typeflag: tar.TypeLink},
		"a device":         {Name: "container.log", Typeflag: tar.TypeChar},
		"a second of them": {Name: "./rootfs-diff.tar", Typeflag: tar.TypeReg},
	} {
		if err := l.unpack(t.Context(), l.archiveOf(t, h, empty), l.ctr); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		check(t, l.Clean(l.sandbox.ID, l.ctr.ID))
	}
	other := l.ctr
	other.ImageID = "sha256:other"
	if err := l.unpack(t.Context(), l.archiveOf(t, nil, empty), other); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "sha256:other") {
		t.Errorf("of another image: %v", err)
	}
	check(t, l.Clean(l.sandbox.ID, l.ctr.ID))
	for _, climbing := range []string{"../../escaped", "checkpoint/../../escaped", "/escaped", "checkpoint/a/escaped"} {
		check(t, l.unpack(t.Context(), l.archiveOf(t, &tar.Header{Name: climbing, Typeflag: tar.TypeReg, Mode: 0o600}, empty), l.ctr))
		check(t, l.Clean(l.sandbox.ID, l.ctr.ID))
	}
	layer := layerOf(t,
		&tar.Header{Name: "out", Linkname: l.dir, Typeflag: tar.TypeSymlink},
		&tar.Header{Name: "out/escaped", Typeflag: tar.TypeReg, Mode: 0o600},
		&tar.Header{Name: "../../../../escaped", Typeflag: tar.TypeReg, Mode: 0o600})
	_ = l.unpack(t.Context(), l.archiveOf(t, nil, layer), l.ctr) // refused or kept inside
	err := filepath.WalkDir(l.dir, func(path string, _ os.DirEntry, err error) error {
		inside := strings.HasPrefix(path, l.opt.Layout.Rootfs(string(l.ctr.ID))) || strings.HasPrefix(path, l.opt.Layout.Upper(string(l.sandbox.ID), string(l.ctr.ID)))
		if filepath.Base(path) == "escaped" && !inside {
			t.Errorf("escaped to %s", path)
		}
		return err
	})
	check(t, err)
}

// TestMisfits: what CRIU would bring back otherwise than the request says is refused, without values.
func TestMisfits(t *testing.T) {
	base := func() *specs.Spec {
		return &specs.Spec{
			Root: &specs.Root{Path: "/x"}, Linux: &specs.Linux{CgroupsPath: "/a", Namespaces: []specs.LinuxNamespace{{Type: "network", Path: "/1"}}},
			Process: &specs.Process{Args: []string{"sh"}, Env: []string{"A=secret", "B=2"}},
			Mounts:  []specs.Mount{{Destination: "/v", Type: "bind", Source: "/1"}},
		}
	}
	for want, change := range map[string]func(*specs.Spec){
		"args":                     func(s *specs.Spec) { s.Process.Args = []string{"bash"} },
		`environment variable "A"`: func(s *specs.Spec) { s.Process.Env = []string{"A=other", "B=2"} },
		"user":                     func(s *specs.Spec) { s.Process.User.UID = 1 },
		"capabilities":             func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}} },
		"seccomp":                  func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} },
		"mounts":                   func(s *specs.Spec) { s.Mounts[0].Destination = "/w" },
		"namespaces":               func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "" },
		"readonly_rootfs":          func(s *specs.Spec) { s.Root.Readonly = true },
		"working directory":        func(s *specs.Spec) { s.Process.Cwd = "/x" },
		"tty":                      func(s *specs.Spec) { s.Process.Terminal = true },
		"no_new_privs":             func(s *specs.Spec) { s.Process.NoNewPrivileges = true },
		"apparmor":                 func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
		"selinux":                  func(s *specs.Spec) { s.Process.SelinuxLabel = "x" },
		"devices":                  func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x"}} },
		"masked_paths":             func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/proc/kcore"} },
		"readonly_paths":           func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/proc/sys"} },
		"": func(s *specs.Spec) {
			s.Root.Path, s.Linux.CgroupsPath, s.Mounts[0].Source, s.Linux.Namespaces[0].Path = "/y", "/b", "/2", "/2"
			s.Process.Env = []string{"B=2", "A=secret"}
		},
	} {
		now := base()
		change(now)
		err := fits(base(), now)
		if want == "" && err == nil {
			continue
		}
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// TestReady: each reason has its own words, and CRIU's are passed on.
func TestReady(t *testing.T) {
	dir := t.TempDir()
	criu := dir + "/criu"
	c := New(Options{CRIU: criu, Runtimes: map[string]Runtime{"": {"/runc", true}, "crun": {"/crun", false}}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Ready(ctx, "crun"); !errdefs.IsNotImplemented(err) {
		t.Errorf("a runtime that cannot: %v", err)
	}
	if err := c.Ready(ctx, ""); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("no CRIU: %v", err)
	}
	check(t, os.WriteFile(criu, []byte("#!/bin/sh\necho 'Error (criu/x.c:1): wrong kernel' >&2\nexit 1\n"), 0o700))
	if err := c.Ready(ctx, ""); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "wrong kernel") {
		t.Errorf("a kernel that cannot: %v", err)
	}
	check(t, os.WriteFile(criu, []byte("#!/bin/sh\n"), 0o700))
	if err := c.Ready(ctx, ""); err != nil {
		t.Error(err)
	}
}
