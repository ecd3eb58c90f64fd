package rootfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOverlay mounts layers, the lowest first, below upper. The volatile option leaves out the sync of the
// whole file system at unmount (overlayfs.rst): a writable layer is not used again after a crash of the kernel.
func mountOverlay(target string, layers []string, upper, work, label string) error {
	top := slices.Clone(layers)
	slices.Reverse(top) // the kernel wants the uppermost first
	options := overlayOptions(top, upper, work, label)
	var err error
	if len(options) < os.Getpagesize() {
		err = unix.Mount("overlay", target, "overlay", 0, options)
	} else {
		err = mountOneByOne(target, top, upper, work, label)
		if errors.Is(err, unix.EINVAL) { // a kernel before 6.5
			err = mountByDescriptors(target, top, upper, work, label)
		}
	}
	if err != nil {
		return fmt.Errorf("mount overlay of %d layers at %s: %w", len(layers), target, err)
	}
	return nil
}

// overlayOptions are for layers with the uppermost first. Without an upper directory the mount is read-only.
func overlayOptions(top []string, upper, work, label string) string {
	options := "lowerdir=" + strings.Join(top, ":")
	if upper != "" {
		options = "volatile," + options + ",upperdir=" + upper + ",workdir=" + work
	}
	return options + labelled(label)
}

// labelled is the mount option that gives all files an SELinux context. Quotes keep the commas of its level.
func labelled(label string) string {
	if label == "" {
		return ""
	}
	return `,context="` + label + `"`
}

// mountByDescriptors names the layers by open descriptors, of which some two hundred fit into the page of options that
// mount(2) takes. The kernel looks the names up once.
func mountByDescriptors(target string, top []string, upper, work, label string) error {
	names := make([]string, 0, len(top))
	for _, dir := range top {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("layer %s: %w", dir, err)
		}
		defer unix.Close(fd)
		names = append(names, fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	options := overlayOptions(names, upper, work, label)
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("this kernel takes fewer layers, from 6.5 on it takes 500: %w", unix.E2BIG)
	}
	return unix.Mount("overlay", target, "overlay", 0, options)
}

// mountOneByOne hands the layers over one by one (lowerdir+ is Linux 6.5).
func mountOneByOne(target string, top []string, upper, work, label string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, dir := range top {
		if err := unix.FsconfigSetString(fd, "lowerdir+", dir); err != nil {
			return fmt.Errorf("layer %s: %w", dir, err)
		}
	}
	if upper != "" {
		err = errors.Join(unix.FsconfigSetString(fd, "upperdir", upper), unix.FsconfigSetString(fd, "workdir", work), unix.FsconfigSetFlag(fd, "volatile"))
		if err != nil {
			return err
		}
	}
	if label != "" {
		if err := unix.FsconfigSetString(fd, "context", label); err != nil {
			return fmt.Errorf("context %s: %w", label, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return err
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
