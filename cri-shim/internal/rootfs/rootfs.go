// Package rootfs makes on disk what a container needs before its start: the mounted root file system, the files
// that a pod's containers share, and the bundle with its config.json. It looks up in the image and on the host
// what package bundle, which is pure, has to know.
//
// Crash story: every path is derived from the ids. Remove and RemoveSandbox find what a crash left, and never
// delete through a mount: what cannot be unmounted stays.
package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/bundle"
	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/podinit"
)

// Options are the parts of a Maker.
type Options struct {
	Layout  paths.Layout
	Facts   hostinfo.Facts
	Cgroups bundle.Cgroups
	// Handlers are those with something set for their containers.
	Handlers map[string]bundle.Handler
	// MakeMissingSources makes a directory where the source of a mount is missing. The CRI says that it is an
	// error; containerd and CRI-O make it.
	MakeMissingSources bool
	// Devices knows the devices that vendors describe in files; nil is none.
	Devices Injector
	// SELinux labels containers and their files. The host must have it.
	SELinux bool
}

// Injector adds devices to a configuration by their names. A name it does not know is ErrInvalidArgument.
type Injector interface {
	Inject(spec *specs.Spec, names []string) error
}

// Maker implements pod.Bundles.
type Maker struct {
	opt      Options
	security *security // nil: nothing is labelled
}

// New checks the options and starts nothing.
func New(opt Options) (*Maker, error) {
	for _, dir := range []string{opt.Layout.Root, opt.Layout.State} {
		// These characters separate the options of an overlay mount.
		if !filepath.IsAbs(dir) || strings.ContainsAny(dir, ":,\\") {
			return nil, fmt.Errorf("directory %q: must be absolute and without : , or \\: %w", dir, errdefs.ErrInvalidArgument)
		}
	}
	m := &Maker{opt: opt}
	if opt.SELinux {
		m.security = hostSecurity()
	}
	m.reserveContexts()
	return m, nil
}

// Prepare implements pod.Bundles.
func (m *Maker) Prepare(ctx context.Context, s pod.Sandbox, c pod.Container, images pod.ContainerImages) (eff pod.Effective, cgroup string, err error) {
	img := images.Root
	if c.Config.Privileged && !s.Config.Privileged {
		return eff, "", fmt.Errorf("privileged: the container's sandbox is not privileged: %w", errdefs.ErrInvalidArgument)
	}
	if eff.StopSignal, err = bundle.StopSignal(c.Config.StopSignal, img.Config.StopSignal); err != nil {
		return eff, "", err
	}
	if _, err := bundle.Args(c.Config, img); err != nil {
		return eff, "", err // before anything is mounted
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Remove(context.WithoutCancel(ctx), s.ID, c.ID))
		}
	}()
	labels, err := m.containerContexts(s, c.Config)
	if err != nil {
		return eff, "", err
	}
	if err := m.mountRoot(s, c.ID, img.Layers, labels.Mount); err != nil {
		return eff, "", err
	}
	in, err := m.input(s, c, images, labels)
	if err != nil {
		return eff, "", err
	}
	spec, err := bundle.Spec(in)
	if err != nil {
		return eff, "", err
	}
	if m.opt.Devices != nil {
		if err := m.opt.Devices.Inject(spec, c.Config.CDIDevices); err != nil {
			return eff, "", err
		}
	}
	if err := writeSpec(m.opt.Layout.Bundle(string(c.ID)), spec); err != nil {
		return eff, "", err
	}
	eff.UID, eff.GID, eff.Groups = in.User.UID, in.User.GID, spec.Process.User.AdditionalGids
	return eff, spec.Linux.CgroupsPath, ctx.Err()
}

// input looks up what config.json depends on.
func (m *Maker) input(s pod.Sandbox, c pod.Container, images pod.ContainerImages, labels contexts) (bundle.Input, error) {
	img := images.Root
	in := bundle.Input{
		Sandbox: s, Container: c, Image: img, ProcessLabel: labels.Process, MountLabel: labels.Mount,
		Facts: m.opt.Facts, Layout: m.opt.Layout, Cgroups: m.opt.Cgroups, Handler: m.opt.Handlers[s.Config.Handler],
	}
	root, err := openRoot(m.opt.Layout.Rootfs(string(c.ID)))
	if err != nil {
		return in, err
	}
	defer root.close()
	if in.User, err = root.user(c.Config.Security, img.Config.User); err != nil {
		return in, err
	}
	if in.Volumes, err = m.volumes(s, c, images.Volumes, labels.Mount); err != nil {
		return in, err
	}
	if in.Anonymous, err = m.anonymous(root, s, c, img, labels.Mount); err != nil {
		return in, err
	}
	if in.Devices, in.Rules, err = devices(c.Config, in.Handler); err != nil {
		return in, err
	}
	if in.AppArmor, err = appArmor(c.Config.Security.AppArmor, c.Config.Privileged, m.opt.Facts.AppArmor); err != nil {
		return in, err
	}
	if p := c.Config.Security.Seccomp; p.Kind == pod.ProfileLocalhost {
		if in.Seccomp, err = readSeccomp(p.Ref); err != nil {
			return in, err
		}
	}
	return in, nil
}

// mountRoot mounts the image's layers under the container's writable one.
func (m *Maker) mountRoot(s pod.Sandbox, id pod.ID, layers []string, label string) error {
	l, sandbox := m.opt.Layout, s.ID
	rootfs := l.Rootfs(string(id))
	upper, work := l.Upper(string(sandbox), string(id)), l.Work(string(sandbox), string(id))
	for _, dir := range []struct {
		path string
		mode fs.FileMode
	}{{rootfs, 0o711}, {upper, 0o755}, {work, 0o711}} {
		if err := makePrivate(filepath.Dir(dir.path), s); err != nil {
			return fmt.Errorf("make the root file system: %w", err)
		}
		if err := os.Mkdir(dir.path, dir.mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the root file system: %w", err)
		}
	}
	if len(layers) == 0 {
		return fmt.Errorf("image has no layers: %w", errdefs.ErrInvalidArgument)
	}
	if s.Config.Namespaces.User == nil {
		return mountOverlay(rootfs, layers, upper, work, label)
	}
	uid, gid := s.Root()
	if err := os.Chown(upper, uid, gid); err != nil {
		return fmt.Errorf("make the root file system: %w", err)
	}
	return mountMapped(rootfs, layers, upper, work, label, m.userns(s))
}

// makePrivate makes a directory on the way to files of a container, through which no other user of the host comes:
// a setuid program of an image must not be theirs to run (CVE-2021-41103). A pod's root does, where it is another
// than ours: it mounts what is below.
func makePrivate(dir string, s pod.Sandbox) error {
	mode := fs.FileMode(0o700)
	_, gid := s.Root()
	if gid != 0 {
		mode = 0o710
	}
	return errors.Join(os.MkdirAll(dir, 0o711), os.Chown(dir, 0, gid), os.Chmod(dir, mode))
}

func writeSpec(dir string, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode config.json: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		return fmt.Errorf("write config.json: %w", err)
	}
	return nil
}

// Prepared implements pod.Bundles.
func (m *Maker) Prepared(id pod.ID) bool {
	_, err := os.Lstat(m.opt.Layout.Shared(string(id)))
	return !errors.Is(err, fs.ErrNotExist)
}

// Unmount implements pod.Bundles.
func (m *Maker) Unmount(_ context.Context, id pod.ID) error {
	return errors.Join(unmount(m.opt.Layout.Rootfs(string(id))), m.unmountImages(id))
}

// Remove implements pod.Bundles. The record's directory stays: it belongs to the store.
func (m *Maker) Remove(ctx context.Context, sandbox, id pod.ID) error {
	l := m.opt.Layout
	if err := m.removeBundle(ctx, id); err != nil {
		return err
	}
	return errors.Join(
		os.RemoveAll(l.Upper(string(sandbox), string(id))),
		os.RemoveAll(l.Work(string(sandbox), string(id))),
		os.RemoveAll(m.volumeDir(sandbox, id)),
		os.RemoveAll(l.Dump(string(sandbox), string(id))),
		os.RemoveAll(l.Restore(string(sandbox), string(id))),
	)
}

func (m *Maker) removeBundle(ctx context.Context, id pod.ID) error {
	dir := m.opt.Layout.Bundle(string(id))
	if err := m.Unmount(ctx, id); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	return nil
}

// PrepareInit implements pod.Bundles.
func (m *Maker) PrepareInit(_ context.Context, s pod.Sandbox) error {
	binary, err := podinit.Binary(runtime.GOARCH)
	if err != nil {
		return err
	}
	rootfs := m.opt.Layout.Rootfs(string(s.ID))
	if err := errors.Join(makePrivate(filepath.Dir(rootfs), s), os.MkdirAll(rootfs, 0o755)); err != nil {
		return fmt.Errorf("make the root of the init: %w", err)
	}
	if err := mountInitRoot(rootfs); err != nil {
		return err
	}
	uid, gid := s.Root()                                 // makes the device nodes in dev
	for _, dir := range []string{"dev", "sys", "proc"} { // the OCI runtime insists on them
		path := filepath.Join(rootfs, dir)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chown(path, uid, gid)); err != nil {
			return fmt.Errorf("make the root of the init: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, "pause"), binary, 0o755); err != nil {
		return fmt.Errorf("write the init: %w", err)
	}
	spec, err := bundle.InitSpec(s, m.opt.Facts, m.opt.Layout, m.opt.Cgroups)
	if err != nil {
		return err
	}
	labels, err := m.labelSandbox(s)
	if err != nil {
		return err
	}
	spec.Process.SelinuxLabel, spec.Linux.MountLabel = labels.Process, labels.Mount
	if err := m.relabel(rootfs, labels.Mount); err != nil {
		return err
	}
	return writeSpec(m.opt.Layout.Bundle(string(s.ID)), spec)
}

// mountInitRoot mounts what holds the init's program and device nodes: nodes on a nodev mount cannot be opened, nor
// can programs on a noexec one be run, and /run is both where an initramfs has mounted it.
func mountInitRoot(rootfs string) error {
	if err := unmount(rootfs); err != nil { // of an attempt before this one
		return err
	}
	if err := unix.Mount("tmpfs", rootfs, "tmpfs", unix.MS_NOSUID, "mode=0755,size=64k"); err != nil {
		return fmt.Errorf("mount the root of the init on %s: %w", rootfs, err)
	}
	return nil
}

// RemoveSandbox implements pod.Bundles.
func (m *Maker) RemoveSandbox(ctx context.Context, id pod.ID) error {
	dir := m.opt.Layout.Shared(string(id))
	// An older cri-shim mounted shm alone.
	if err := errors.Join(m.removeBundle(ctx, id), unmount(filepath.Join(dir, "shm")), unmount(dir)); err != nil {
		return err
	}
	m.releaseContexts(id)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the sandbox's files: %w", err)
	}
	return nil
}

// unmount takes away whatever is mounted on path; nothing, or no path, is success.
func unmount(path string) error {
	for range 16 { // a crash may have mounted twice
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch {
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return fmt.Errorf("unmount %s: it is mounted again and again", path)
}
