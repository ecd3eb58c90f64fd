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
		err = mountManyLayers(target, top, upper, work, label)
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

// mountManyLayers hands the layers over one by one: mount(2) takes a page of options (lowerdir+ is Linux 6.5).
func mountManyLayers(target string, top []string, upper, work, label string) error {
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
