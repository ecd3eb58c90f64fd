package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stuckMount is a FUSE file system in which every look-up of a name waits until release. The kernel does not let a
// process go, not even a killed one, whose request the server has read: that is what a lost NFS server does too.
type stuckMount struct {
	Dir string

	dev  int
	done chan struct{}

	mu       sync.Mutex
	released bool     // guarded by mu
	waiting  []uint64 // guarded by mu: requests without an answer
}

// opcodes and sizes of the FUSE protocol (linux/fuse.h).
const (
	fuseLookup     = 1
	fuseForget     = 2
	fuseGetattr    = 3
	fuseStatfs     = 17
	fuseInit       = 26
	fuseInterrupt  = 36
	fuseInHeader   = 40
	fuseOutHeader  = 16
	fuseInitOut    = 64
	fuseAttrOut    = 104
	fuseStatfsOut  = 80
	fuseMaxMessage = 1 << 17

	fuseParallelLookups = 1 << 18
)

// mountStuck mounts one at a directory of the node, and unmounts it at the end of the test.
func (n *tester) mountStuck(name string) *stuckMount {
	n.t.Helper()
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		n.t.Skipf("a mount that is stuck takes FUSE: %v", err)
	}
	m := &stuckMount{Dir: n.Base + "/" + name, dev: dev, done: make(chan struct{})}
	n.must(os.Mkdir(m.Dir, 0o755))
	n.must(unix.Mount("stuck", m.Dir, "fuse.stuck", unix.MS_NOSUID|unix.MS_NODEV,
		fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev)))
	go m.serve()
	n.t.Cleanup(func() {
		m.release()
		if err := unix.Unmount(m.Dir, unix.MNT_DETACH); err != nil {
			n.t.Error(err)
		}
		select {
		case <-m.done:
		case <-time.After(patience): // containers of a test that failed have it still
			n.t.Error("the stuck mount is still mounted")
		}
	})
	return m
}

// serve answers until the last mount is gone.
func (m *stuckMount) serve() {
	defer close(m.done)
	defer func() { _ = unix.Close(m.dev) }()
	buf := make([]byte, fuseMaxMessage)
	for {
		n, err := unix.Read(m.dev, buf)
		switch {
		case err == nil && n >= fuseInHeader:
			m.answer(binary.NativeEndian.Uint32(buf[4:]), binary.NativeEndian.Uint64(buf[8:]), buf[fuseInHeader:n])
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAGAIN):
		default:
			return
		}
	}
}

func (m *stuckMount) answer(opcode uint32, unique uint64, in []byte) {
	switch opcode {
	case fuseForget, fuseInterrupt: // take no answer
	case fuseLookup:
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.released {
			m.reply(unique, syscall.EIO, nil)
		} else {
			m.waiting = append(m.waiting, unique)
		}
	case fuseInit:
		out := make([]byte, fuseInitOut)
		copy(out, in[:8]) // the kernel's own version
		binary.NativeEndian.PutUint32(out[12:], fuseParallelLookups)
		binary.NativeEndian.PutUint32(out[20:], 1<<12) // longest write
		m.reply(unique, 0, out)
	case fuseGetattr:
		out := make([]byte, fuseAttrOut)
		binary.NativeEndian.PutUint64(out[16:], 1) // inode
		binary.NativeEndian.PutUint32(out[16+60:], unix.S_IFDIR|0o755)
		binary.NativeEndian.PutUint32(out[16+64:], 2) // links
		m.reply(unique, 0, out)
	case fuseStatfs:
		m.reply(unique, 0, make([]byte, fuseStatfsOut))
	default:
		m.reply(unique, syscall.ENOSYS, nil)
	}
}

func (m *stuckMount) reply(unique uint64, errno syscall.Errno, out []byte) {
	b := make([]byte, fuseOutHeader, fuseOutHeader+len(out))
	binary.NativeEndian.PutUint32(b, uint32(fuseOutHeader+len(out)))
	binary.NativeEndian.PutUint32(b[4:], uint32(-int32(errno)))
	binary.NativeEndian.PutUint64(b[8:], unique)
	_, _ = unix.Write(m.dev, append(b, out...)) // it fails when who asked is gone
}

// stuck is how many processes wait.
func (m *stuckMount) stuck() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting)
}

// release fails what waits, and all that comes.
func (m *stuckMount) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, unique := range m.waiting {
		m.reply(unique, syscall.EIO, nil)
	}
	m.waiting, m.released = nil, true
}
