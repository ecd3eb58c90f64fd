// Package durable writes small files so that a reader, or a start after a crash, sees the old content or
// the new one and never a part. It also takes file locks. It is not for large or streamed data.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Sync says what a write survives.
type Sync bool

const (
	// NoSync survives the end of any process. After a power cut the file may be old, new, empty or gone:
	// for state that a reboot ends anyway, or that carries a checksum.
	NoSync Sync = false
	// FullSync survives a power cut as well: file and directory are synced before it returns.
	FullSync Sync = true
)

// tempMark is in the name of every temporary file, and in no other name.
const tempMark = ".durable-tmp-"

// WriteFile replaces path by data with the given permissions, by a temporary file in the same directory
// and rename(2). On an error the old content stands.
func WriteFile(path string, data []byte, perm fs.FileMode, sync Sync) (err error) {
	dir, base := filepath.Dir(path), filepath.Base(path)
	f, err := os.CreateTemp(dir, base+tempMark+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := fill(f, data, perm, sync); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if sync == FullSync {
		return SyncDir(dir)
	}
	return nil
}

func fill(f *os.File, data []byte, perm fs.FileMode, sync Sync) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil && sync == FullSync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncDir makes the names in a directory survive a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// RemoveLeftovers removes the temporary files that killed writers left in dir. No writer may be at work
// there. A missing dir is success.
func RemoveLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove leftovers: %w", err)
	}
	var faults []error
	for _, e := range entries {
		if strings.Contains(e.Name(), tempMark) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				faults = append(faults, err)
			}
		}
	}
	return errors.Join(faults...)
}

// Lock is an exclusive flock(2) on a file. The kernel gives it up when the holder dies.
type Lock struct{ f *os.File }

// ErrLocked says that another holder has the lock.
var ErrLocked = errors.New("locked by another process")

// Acquire waits for the lock on path, which it makes if needed.
func Acquire(path string) (*Lock, error) { return lock(path, unix.LOCK_EX) }

// TryAcquire is Acquire, but returns ErrLocked where that would wait.
func TryAcquire(path string) (*Lock, error) { return lock(path, unix.LOCK_EX|unix.LOCK_NB) }

func lock(path string, how int) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return &Lock{f}, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Release gives the lock up. The file stays: removing it would let two holders lock two files of one name.
func (l *Lock) Release() error { return l.f.Close() }

// RemoveFile removes path; absent is success. With FullSync the name stays gone after a power cut.
func RemoveFile(path string, sync Sync) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if sync == FullSync {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}
