package netutil

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// threadNS is the network namespace of the calling thread.
const threadNS = "/proc/thread-self/ns/net"

// nsGetNSType is NS_GET_NSTYPE of ioctl_ns(2): the CLONE_NEW* flag of a namespace file.
const nsGetNSType = 0xb703

// NS is an open network namespace.
type NS struct {
	f     *os.File
	inode uint64
}

// OpenNS opens the namespace that path pins. A missing path is ErrNotFound, anything but a network
// namespace ErrInvalidArgument.
func OpenNS(path string) (*NS, error) {
	// O_NONBLOCK: a path that is a FIFO must not block us.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", classify(err))
	}
	inode, err := identify(f)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return &NS{f: f, inode: inode}, nil
}

func identify(f *os.File) (uint64, error) {
	kind, err := unix.IoctlRetInt(int(f.Fd()), nsGetNSType)
	if err != nil || kind != unix.CLONE_NEWNET {
		return 0, fmt.Errorf("not a network namespace: %w", errdefs.ErrInvalidArgument)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// Close closes the file; the namespace lives on as long as others hold it.
func (n *NS) Close() error { return n.f.Close() }

// Inode identifies the namespace among those that live.
func (n *NS) Inode() uint64 { return n.inode }

// InodeAt is the inode of the namespace that path pins, ErrNotFound when there is none.
func InodeAt(path string) (uint64, error) {
	ns, err := OpenNS(path)
	if err != nil {
		return 0, err
	}
	return ns.Inode(), ns.Close()
}

// HasProcess says whether any process is in the namespace with this inode.
func HasProcess(inode uint64) bool {
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range paths {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Ino == inode {
			return true
		}
	}
	return false
}

// IsCurrent says whether the caller is in this namespace.
func (n *NS) IsCurrent() (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(threadNS, &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", threadNS, err)
	}
	return st.Ino == n.inode, nil
}

// Do runs f on a thread inside the namespace and waits for it. Goroutines that f starts run outside.
func (n *NS) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := n.enter()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err = f()
		if e := netns.Set(back); e != nil {
			// Not unlocked: the thread is in the wrong place and must end with this goroutine.
			done <- errors.Join(err, fmt.Errorf("leave network namespace: %w", e))
			return
		}
		_ = back.Close()
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

func (n *NS) enter() (back netns.NsHandle, err error) {
	back, err = netns.GetFromPath(threadNS)
	if err != nil {
		return back, fmt.Errorf("find own network namespace: %w", err)
	}
	if err := netns.Set(netns.NsHandle(n.f.Fd())); err != nil {
		_ = back.Close()
		return back, fmt.Errorf("enter network namespace: %w", classify(err))
	}
	return back, nil
}

// lockFile is where LockNS locks. The file of the namespace itself would do, if not for everybody in it being able to
// open that: a process without any right, in a pod with the host's network, could keep all others waiting for ever.
const lockFile = "/run/bridge-ipam.lock"

// LockNS takes the one exclusive lock of the caller's network namespace, for changes that must not
// interleave among processes. The kernel gives it up when the holder dies. All namespaces share one file, which
// stays: a lock is one byte of it, at the namespace's inode.
func LockNS() (unlock func() error, err error) {
	var st unix.Stat_t
	if err := unix.Stat(threadNS, &st); err != nil {
		return nil, fmt.Errorf("lock network namespace: stat %s: %w", threadNS, err)
	}
	f, err := openLock(lockFile)
	if err != nil {
		return nil, fmt.Errorf("lock network namespace: %w", err)
	}
	err = ignoringEINTR(func() error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK, Start: int64(st.Ino), Len: 1})
	})
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock network namespace: %s: %w", lockFile, err)
	}
	return f.Close, nil
}

// openLock makes the directory, too, where there is none.
func openLock(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			f, err = os.OpenFile(path, flags, 0o600)
		}
	}
	return f, err
}
