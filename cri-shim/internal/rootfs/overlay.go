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
func mountOverlay(target string, layers []string, upper, work string) error {
	top := slices.Clone(layers)
	slices.Reverse(top) // the kernel wants the uppermost first
	options := overlayOptions(top, upper, work)
	var err error
	if len(options) < os.Getpagesize() {
		err = unix.Mount("overlay", target, "overlay", 0, options)
	} else {
		err = mountManyLayers(target, top, upper, work)
	}
	if err != nil {
		return fmt.Errorf("mount overlay of %d layers at %s: %w", len(layers), target, err)
	}
	return nil
}

// overlayOptions are for layers with the uppermost first. Without an upper directory the mount is read-only.
func overlayOptions(top []string, upper, work string) string {
	lower := "lowerdir=" + strings.Join(top, ":")
	if upper == "" {
		return lower
	}
	return "volatile," + lower + ",upperdir=" + upper + ",workdir=" + work
}

// mountManyLayers hands the layers over one by one: mount(2) takes a page of options (lowerdir+ is Linux 6.5).
func mountManyLayers(target string, top []string, upper, work string) error {
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
