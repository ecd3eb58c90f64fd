package stats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxDepth bounds the directories held open at a time. A deeper tree is not measured at all: half a number
// would look like a whole one.
const maxDepth = 1000

// maxLinked bounds the files with several names that are remembered, to be counted once. What comes after them counts by
// its share for each name, which is the same unless names are made or go meanwhile.
const maxLinked = 1 << 16

// walk adds up one tree. It never follows a link, because a container may put one anywhere at any moment.
type walk struct {
	layer  Layer
	linked map[inode]bool // files with several names
	most   int            // of them
	shares struct{ bytes, inodes float64 }
}

type inode struct{ dev, ino uint64 }

// measure returns what a directory and all below it take on disk; one that is gone is ErrNotFound.
func measure(ctx context.Context, dir string) (Layer, error) {
	return measureWithin(ctx, dir, maxLinked)
}

func measureWithin(ctx context.Context, dir string, linked int) (Layer, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return Layer{}, classify(dir, err)
	}
	w := walk{linked: map[inode]bool{}, most: linked}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return Layer{}, classify(dir, err)
	}
	w.count(&st)
	if err := w.directory(ctx, os.NewFile(uintptr(fd), dir), 0); err != nil {
		return Layer{}, fmt.Errorf("measure %s: %w", dir, err)
	}
	w.layer.Bytes += uint64(math.Round(w.shares.bytes))
	w.layer.Inodes += uint64(math.Round(w.shares.inodes))
	return w.layer, nil
}

// directory counts what is in d, and closes it.
func (w *walk) directory(ctx context.Context, d *os.File, depth int) error {
	defer d.Close()
	if depth == maxDepth {
		return fmt.Errorf("more than %d directories in one another: %w", maxDepth, errdefs.ErrResourceExhausted)
	}
	const batch = 256
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		names, err := d.Readdirnames(batch)
		for _, name := range names {
			if err := w.entry(ctx, d, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// entry counts one name; one that vanished since is nothing.
func (w *walk) entry(ctx context.Context, d *os.File, name string, depth int) error {
	var st unix.Stat_t
	at := int(d.Fd())
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return ignoreGone(err)
	}
	w.count(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return ignoreGone(err)
	}
	return w.directory(ctx, os.NewFile(uintptr(fd), name), depth+1)
}

// ignoreGone: the tree is in use while it is measured. ELOOP and ENOTDIR say that a link or a file took the
// place of a directory.
func ignoreGone(err error) error {
	for _, gone := range []error{unix.ENOENT, unix.ELOOP, unix.ENOTDIR} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

func (w *walk) count(st *unix.Stat_t) {
	const block = 512 // of st_blocks, whatever the file system's is (stat(3type))
	bytes := uint64(st.Blocks) * block
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		switch {
		case w.linked[key]:
			return
		case len(w.linked) >= w.most:
			w.shares.bytes += float64(bytes) / float64(st.Nlink)
			w.shares.inodes += 1 / float64(st.Nlink)
			return
		}
		w.linked[key] = true
	}
	w.layer.Bytes += bytes
	w.layer.Inodes++
}
