// Package podns makes the namespaces of a sandbox and pins them as files, so that no process has to hold
// them. It never enters a namespace for anybody else, and knows nothing of networks.
//
// Crash story: every file has a name derived from the sandbox's id, below Layout.Namespaces(id). Whatever a
// crash leaves there is removed by Unpin, and completed by a repeated Pin.
package podns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/thread"
)

// kind is one namespace that can be pinned: its file name here and in /proc/pid/ns, and its clone flag.
type kind struct {
	name string
	flag int
}

var (
	network = kind{"net", unix.CLONE_NEWNET}
	ipc     = kind{"ipc", unix.CLONE_NEWIPC}
	uts     = kind{"uts", unix.CLONE_NEWUTS}
	pid     = kind{"pid", unix.CLONE_NEWPID}
	user    = kind{"user", unix.CLONE_NEWUSER}
)

// Pinner implements pod.Pinner.
type Pinner struct {
	layout paths.Layout
}

// New starts nothing.
func New(layout paths.Layout) *Pinner { return &Pinner{layout} }

func (p *Pinner) file(id pod.ID, k kind) string {
	return filepath.Join(p.layout.Namespaces(string(id)), k.name)
}

// NetNS returns the path of the pinned network namespace, "" when there is none.
func (p *Pinner) NetNS(id pod.ID) string {
	if path := p.file(id, network); isPinned(path) {
		return path
	}
	return ""
}

// kindsOf are the namespaces that a sandbox has of its own. The host's network goes with the host's name.
func kindsOf(s pod.Sandbox) []kind {
	var out []kind
	if !s.HostNetwork() {
		out = append(out, network, uts)
	}
	if !s.HostIPC() {
		out = append(out, ipc)
	}
	if s.Config.Namespaces.User != nil {
		out = append(out, user)
	}
	return out
}

// Pin implements pod.Pinner. Sysctls are checked here once more: one that is not namespaced would change
// the host.
func (p *Pinner) Pin(ctx context.Context, s pod.Sandbox) error {
	if err := CheckSysctls(s); err != nil {
		return err
	}
	kinds := kindsOf(s)
	missing := 0
	for _, k := range kinds {
		if !isPinned(p.file(s.ID, k)) {
			missing++
		}
	}
	if missing == 0 {
		return nil
	}
	if missing < len(kinds) { // a crash in the middle: what is new must be new together
		if err := p.Unpin(s.ID); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(p.layout.Namespaces(string(s.ID)), 0o711); err != nil {
		return fmt.Errorf("make the namespace directory: %w", err)
	}
	build := p.build
	if s.Config.Namespaces.User != nil {
		build = p.buildMapped
	}
	if err := thread.Scratch(func() error { return build(s, kinds) }); err != nil {
		return errors.Join(err, p.Unpin(s.ID))
	}
	return ctx.Err()
}

// build runs on a thread of its own: unshare, fit out, pin.
func (p *Pinner) build(s pod.Sandbox, kinds []kind) error {
	flags := 0
	for _, k := range kinds {
		flags |= k.flag
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := fitOut(s); err != nil {
		return err
	}
	if err := setSysctls(sysctlsOf(s)); err != nil {
		return err
	}
	return p.pinAll(s.ID, kinds, "/proc/thread-self/ns/")
}

// fitOut sets what is set by calls in the thread's namespaces.
func fitOut(s pod.Sandbox) error {
	if s.HostNetwork() {
		return nil
	}
	if err := raiseLoopback(); err != nil {
		return err
	}
	if name := s.Config.Hostname; name != "" {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("set hostname %q: %w", name, err)
		}
	}
	return nil
}

func setSysctls(values map[string]string) error {
	for key, value := range values {
		path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl %s=%q: %w: %w", key, value, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func (p *Pinner) pinAll(id pod.ID, kinds []kind, from string) error {
	for _, k := range kinds {
		if err := pin(from+k.name, p.file(id, k)); err != nil {
			return err
		}
	}
	return nil
}

// PinPID implements pod.Pinner.
func (p *Pinner) PinPID(id pod.ID, process int) error {
	path := p.file(id, pid)
	if isPinned(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return fmt.Errorf("make the namespace directory: %w", err)
	}
	return pin("/proc/"+strconv.Itoa(process)+"/ns/pid", path)
}

// Unpin implements pod.Pinner.
func (p *Pinner) Unpin(id pod.ID) error {
	var faults []error
	for _, k := range []kind{network, ipc, uts, pid, user} {
		path := p.file(id, k)
		for { // a crash between bind and check may have pinned twice
			err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err == nil {
				continue
			}
			if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				faults = append(faults, fmt.Errorf("unpin %s: %w", path, err))
			}
			break
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	if err := os.Remove(p.layout.Namespaces(string(id))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func pin(source, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return fmt.Errorf("pin namespace: %w", err)
	}
	_ = f.Close()
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin namespace %s: %w", path, err)
	}
	return nil
}

func isPinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// raiseLoopback sets lo up in the thread's network namespace (netdevice(7)).
func raiseLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
