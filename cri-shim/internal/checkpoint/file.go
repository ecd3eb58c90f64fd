package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// file is a new file that has no name until it is complete (open(2), O_TMPFILE): whatever ends us leaves no part of it.
type file struct {
	*os.File
	path  string
	named bool
}

// create begins the file that publish will call path. What is there already is not replaced.
func create(path string) (*file, error) {
	dir := filepath.Dir(path)
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s exists, and is not replaced: %w", path, errdefs.ErrAlreadyExists)
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%s: %s is no directory: %w", path, dir, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, fmt.Errorf("%s: its file system makes no unnamed files: %w", path, errdefs.ErrInvalidArgument)
	case err != nil:
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &file{File: os.NewFile(uintptr(fd), path), path: path}, nil
}

// publish gives the complete file its name, once it is on the disk.
func (f *file) publish() error {
	if f.named {
		return nil
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, f.path, unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists, and is not replaced: %w", f.path, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("name %s: %w", f.path, err)
	}
	f.named = true
	return nil
}

// unpublish takes the name away again.
func (f *file) unpublish() error {
	if !f.named {
		return nil
	}
	return os.Remove(f.path)
}

func (f *file) close() { _ = f.Close() }
