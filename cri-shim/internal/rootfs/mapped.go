package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/thread"
)

// userns is the file of the sandbox's user namespace.
func (m *Maker) userns(s pod.Sandbox) string {
	return filepath.Join(m.opt.Layout.Namespaces(string(s.ID)), "user")
}

// mountMapped is mountOverlay for a pod with a user namespace: the files of the layers belong to the namespace's
// ids, without a change on disk (ID-mapped lower layers: Linux 5.19). The layers' mapped mounts exist in a mount
// namespace of a thread that dies afterwards; a crash leaves nothing of them.
func mountMapped(target string, layers []string, upper, work, label, userns string) error {
	err := thread.Scratch(func() error { return mountMappedHere(target, layers, upper, work, label, userns) })
	if err != nil {
		return fmt.Errorf("mount overlay of %d ID-mapped layers at %s: %w", len(layers), target, err)
	}
	return nil
}

func mountMappedHere(target string, layers []string, upper, work, label, userns string) error {
	ns, err := os.Open(userns)
	if err != nil {
		return err
	}
	defer ns.Close()
	host, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return err
	}
	defer host.Close()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, "mode=700"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	// Relative names keep the options of an overlay of many layers within their page.
	if err := unix.Chdir(target); err != nil {
		return err
	}
	var lower []string
	for i := len(layers) - 1; i >= 0; i-- { // the kernel wants the uppermost first
		name := strconv.Itoa(i)
		if err := attachMapped(layers[i], name, int(ns.Fd())); err != nil {
			return fmt.Errorf("map the ids of layer %s: %w", layers[i], err)
		}
		lower = append(lower, name)
	}
	if err := os.Mkdir("merged", 0o711); err != nil {
		return err
	}
	if err := unix.Mount("overlay", "merged", "overlay", 0, overlayOptions(lower, upper, work, label)); err != nil {
		return err
	}
	return carry("merged", target, int(host.Fd()))
}

// attachMapped mounts dir at the new directory name, with its ids mapped.
func attachMapped(dir, name string, userns int) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(tree) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return err
	}
	if err := os.Mkdir(name, 0o711); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// carry takes the mount at from into the mount namespace host, at the path to there.
func carry(from, to string, host int) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(tree) }()
	if err := unix.Setns(host, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("return to the host's mounts: %w", err)
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, filepath.Clean(to), unix.MOVE_MOUNT_F_EMPTY_PATH)
}
