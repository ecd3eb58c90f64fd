package crishim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/pkg/durable"
)

// claim makes the two directories and takes a lock on each: two processes on one set of records, or on
// one set of images, would destroy it. It returns what gives the locks up.
func claim(l paths.Layout) (release func() error, err error) {
	var locks []*durable.Lock
	release = func() error {
		var faults []error
		for _, lock := range locks {
			faults = append(faults, lock.Release())
		}
		return errors.Join(faults...)
	}
	for _, dir := range []string{l.State, l.Root} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, errors.Join(fmt.Errorf("make directory: %w", err), release())
		}
		lock, err := durable.TryAcquire(filepath.Join(dir, "cri-shim.lock"))
		if errors.Is(err, durable.ErrLocked) {
			err = fmt.Errorf("another cri-shim uses %s; give this one a state and a root of its own: %w", dir, errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return nil, errors.Join(err, release())
		}
		locks = append(locks, lock)
	}
	return release, nil
}

// listen makes the socket. What a killed process left at its place is replaced, if it is a socket that
// nobody answers on; anything else is left alone.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	// Until here the umask keeps others from writing to it, and so from connecting.
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), l.Close())
	}
	return l, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen on %s: something that is not a socket is there: %w", path, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("listen on %s: another process answers there: %w", path, errdefs.ErrFailedPrecondition), conn.Close())
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("listen on %s: is anybody there? %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the stale socket: %w", err)
	}
	return nil
}
