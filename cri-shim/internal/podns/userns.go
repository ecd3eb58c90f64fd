package podns

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/podinit"
	"github.com/podwright/podwright/cri-shim/internal/thread"
)

// buildMapped makes the namespaces of a pod that has a user namespace, which must own the others. Only a process
// of one thread can make one (unshare(2), EINVAL), so a child is born into all of them. It runs on a thread of its
// own, with which the child dies.
func (p *Pinner) buildMapped(s pod.Sandbox, kinds []kind) (err error) {
	child, err := startMapped(s, kinds)
	if err != nil {
		return fmt.Errorf("make a user namespace: %w", err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait() // says that it was killed
	}()
	from := "/proc/" + strconv.Itoa(child.Process.Pid) + "/ns/"
	if err := thread.Scratch(func() error { return fitOutMapped(s, kinds, from) }); err != nil {
		return err
	}
	return p.pinAll(s.ID, kinds, from)
}

// startMapped starts a process that sleeps in new namespaces: the program of a pod's init, of 400 bytes, which is
// executed from memory.
func startMapped(s pod.Sandbox, kinds []kind) (*exec.Cmd, error) {
	binary, err := podinit.Binary(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("cri-shim-userns", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	program := os.NewFile(uintptr(fd), "userns")
	defer program.Close()
	if _, err := program.Write(binary); err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	flags := 0
	for _, k := range kinds {
		flags |= k.flag
	}
	u := s.Config.Namespaces.User
	cmd := &exec.Cmd{Path: fmt.Sprintf("/proc/self/fd/%d", fd), Args: []string{"pause"}, Env: []string{}, Dir: "/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  uintptr(flags),
		UidMappings: []syscall.SysProcIDMap{sysMap(u.UID)}, GidMappings: []syscall.SysProcIDMap{sysMap(u.GID)},
		GidMappingsEnableSetgroups: true, // else no container could have supplemental groups
		Credential:                 &syscall.Credential{NoSetGroups: true},
		Pdeathsig:                  syscall.SIGKILL,
	}
	return cmd, cmd.Start()
}

// SupportsIDMap is nil when user namespaces can be made on this host, and the mounts of dir's file system can be
// ID-mapped (mount_setattr(2)).
func SupportsIDMap(dir string) error {
	probe := pod.Sandbox{}
	ids := pod.IDMapping{HostID: 65536, Length: 65536}
	probe.Config.Namespaces.User = &pod.UserNamespace{UID: ids, GID: ids}
	return thread.Scratch(func() error {
		child, err := startMapped(probe, []kind{user})
		if err != nil {
			return fmt.Errorf("make a user namespace: %w", err)
		}
		defer func() {
			_ = child.Process.Kill()
			_ = child.Wait() // says that it was killed
		}()
		ns, err := os.Open("/proc/" + strconv.Itoa(child.Process.Pid) + "/ns/user")
		if err != nil {
			return err
		}
		defer ns.Close()
		tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("clone the mount of %s: %w", dir, err)
		}
		defer func() { _ = unix.Close(tree) }()
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("map the ids of the mount of %s: %w", dir, err)
		}
		return nil
	})
}

func sysMap(m pod.IDMapping) syscall.SysProcIDMap {
	return syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Length)}
}

// fitOutMapped joins all but the user namespace: as the host's root we have every right in them.
func fitOutMapped(s pod.Sandbox, kinds []kind, from string) error {
	for _, k := range kinds {
		if k == user {
			continue
		}
		if err := join(from+k.name, k.flag); err != nil {
			return err
		}
	}
	if err := fitOut(s); err != nil {
		return err
	}
	network, other := map[string]string{}, map[string]string{}
	for key, value := range sysctlsOf(s) {
		if isIPC(key) {
			other[key] = value
		} else {
			network[key] = value
		}
	}
	if err := setSysctls(network); err != nil || len(other) == 0 {
		return err
	}
	// IPC sysctls are writable by the namespace's root, and not by the host's, for all its capabilities
	// (ipc/ipc_sysctl.c). The raw call changes this thread alone, and the thread is not used again.
	uid, _ := s.Root()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
		return fmt.Errorf("become the pod's root: %w", errno)
	}
	return setSysctls(other)
}

func join(path string, flag int) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("join namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), flag); err != nil {
		return fmt.Errorf("join namespace %s: %w", path, err)
	}
	return nil
}
