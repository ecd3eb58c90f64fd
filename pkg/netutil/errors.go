package netutil

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

var classOf = map[syscall.Errno]error{
	syscall.ENODEV:        errdefs.ErrNotFound,
	syscall.ENXIO:         errdefs.ErrNotFound,
	syscall.ENOENT:        errdefs.ErrNotFound,
	syscall.ESRCH:         errdefs.ErrNotFound,
	syscall.EADDRNOTAVAIL: errdefs.ErrNotFound,
	syscall.EEXIST:        errdefs.ErrAlreadyExists,
	syscall.EINVAL:        errdefs.ErrInvalidArgument,
	syscall.EXFULL:        errdefs.ErrResourceExhausted, // a bridge has all its ports
	syscall.EPERM:         errdefs.ErrPermissionDenied,
	syscall.EACCES:        errdefs.ErrPermissionDenied,
}

// maxDumps is how often a list is asked for that changes while the kernel writes it.
const maxDumps = 100

// whole repeats a dump until the kernel says that nothing changed meanwhile: half a list must not look like a whole one.
func whole[T any](dump func() (T, error)) (out T, err error) {
	for range maxDumps {
		if out, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

// classify adds the class to an error of the kernel or of the netlink library.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if class, ok := classOf[errno]; ok {
			return fmt.Errorf("%w (%w)", err, class)
		}
		return err
	}
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w (%w)", err, errdefs.ErrNotFound)
	}
	return err
}

// absentOK turns "not found" into success.
func absentOK(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// presentOK turns "already exists" into success.
func presentOK(err error) error {
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}
