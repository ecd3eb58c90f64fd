package server

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// carry is the buffer between a container's output and its log. It is a shared mapping of a file on tmpfs,
// so that what was read from a FIFO and not yet logged outlives a killed monitor.
//
// The first 8 bytes hold three numbers, changed in one store: where the unlogged bytes begin, where they end, and how
// many more a read that has begun will bring. A monitor that is killed within the read can tell nobody whether it took
// place: the FIFO may be read, and its bytes be in the buffer. So a mark stands where the last of them come, and the
// next monitor looks whether it is still there. It is random, of bytes that text has not.
//
// A full file system must not stop a container, nor us: touching a page for which there is no room is a SIGBUS, and
// reading into one EFAULT. The output then goes through memory of our own, and what is in there dies with us.
type carry struct {
	mem     []byte
	file    *os.File // nil once in memory of our own
	touched int      // up to here there are pages
}

const (
	carryHead = 64
	carrySize = 64*1024 + carryHead
	boundBits = 20 // each of the three
	markLen   = 16
)

// openCarry maps the file at path, which it makes if needed.
func openCarry(path string) (*carry, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open carry: %w", err)
	}
	c, err := mapCarry(f)
	if err != nil || c.file == nil {
		_ = f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("open carry: %w", err)
	}
	return c, nil
}

func mapCarry(f *os.File) (*carry, error) {
	if err := f.Truncate(carrySize); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	_, err := f.WriteAt(head[:], 0) // makes room for the first page
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &carry{mem: make([]byte, carrySize)}, nil
	}
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, carrySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	c := &carry{mem: mem, file: f, touched: carryHead}
	c.resume()
	return c, nil
}

// resume takes in what a monitor before us has read, and makes a mark of our own.
func (c *carry) resume() {
	start, end, coming := c.bounds()
	switch {
	case start > end || end+coming > len(c.data()):
		c.setBounds(0, 0, 0)
	case coming > 0 && bytes.Equal(c.markOf(end, coming), c.mark()[:min(coming, markLen)]): // nothing was read
		c.setBounds(start, end, 0)
	case coming > 0:
		c.took(coming)
	}
	const noText = "\xC0\xC1\xF5\xF6\xF7\xF8\xF9\xFA\xFB\xFC\xFD\xFE\xFF" // never in UTF-8 (RFC 3629 section 1)
	_, _ = rand.Read(c.mark())
	for i, b := range c.mark() {
		c.mark()[i] = noText[int(b)%len(noText)]
	}
}

func (c *carry) close() error {
	if c.file == nil {
		return nil
	}
	return errors.Join(unix.Munmap(c.mem), c.file.Close())
}

// leaveFile goes on in memory of our own. The next monitor finds nothing in the file.
func (c *carry) leaveFile() error {
	own := &carry{mem: make([]byte, carrySize)}
	own.setBounds(0, copy(own.data(), c.unlogged()), 0)
	c.setBounds(0, 0, 0)
	err := c.close()
	*c = *own
	return err
}

func (c *carry) head() *uint64 { return (*uint64)(unsafe.Pointer(&c.mem[0])) } // page aligned
func (c *carry) mark() []byte  { return c.mem[8 : 8+markLen] }
func (c *carry) data() []byte  { return c.mem[carryHead:] }

// markOf is where the mark of a read of n bytes to end stands.
func (c *carry) markOf(end, n int) []byte { return c.data()[end+max(0, n-markLen) : end+n] }

func (c *carry) bounds() (start, end, coming int) {
	const mask = 1<<boundBits - 1
	v := atomic.LoadUint64(c.head())
	return int(v & mask), int(v >> boundBits & mask), int(v >> (2 * boundBits) & mask)
}

func (c *carry) setBounds(start, end, coming int) {
	if start == end && coming == 0 {
		start, end = 0, 0
	}
	atomic.StoreUint64(c.head(), uint64(start)|uint64(end)<<boundBits|uint64(coming)<<(2*boundBits))
}

// unlogged is what was read and not yet logged.
func (c *carry) unlogged() []byte {
	start, end, _ := c.bounds()
	return c.data()[start:end]
}

// room is where the next read goes. The unlogged rest is at most one log line long, so that moving it to
// the front never overlaps where it stands.
func (c *carry) room() []byte {
	start, end, _ := c.bounds()
	if end == len(c.data()) {
		n := copy(c.data(), c.data()[start:end])
		c.setBounds(0, n, 0)
		end = n
	}
	return c.data()[end:]
}

// read waits until something can be read from a source that does not block, and returns it; it is among the unlogged
// from then on. At the end of the source it returns io.EOF; past the source's deadline os.ErrDeadlineExceeded.
func (c *carry) read(source syscall.RawConn) (got []byte, err error) {
	waiting := source.Read(func(fd uintptr) bool {
		got, err = c.readNow(int(fd))
		return !errors.Is(err, unix.EAGAIN)
	})
	if waiting != nil {
		return nil, waiting
	}
	return got, err
}

// readNow asks for no more than there is (FIONREAD of ioctl_tty(2), TIOCINQ by its other name): a read that takes place
// then brings all that the bounds say.
func (c *carry) readNow(fd int) ([]byte, error) {
	for {
		room := c.room()
		if there, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
			room = room[:min(max(there, 1), len(room))]
		}
		if err := c.expect(len(room)); err != nil { // whatever ails the file, the container's output goes on
			_ = c.leaveFile()
			continue
		}
		n, err := unix.Read(fd, room)
		c.took(max(n, 0))
		switch {
		case err == unix.EINTR:
		case err == unix.EFAULT && c.file != nil:
			_ = c.leaveFile()
		case err != nil:
			return nil, err
		case n == 0:
			return nil, io.EOF
		default:
			return room[:n], nil
		}
	}
}

// expect says that n bytes are about to be read into room.
func (c *carry) expect(n int) error {
	if c.file == nil {
		return nil
	}
	start, end, _ := c.bounds()
	mark := c.mark()[:min(n, markLen)]
	if at := carryHead + end + n; at > c.touched {
		if _, err := c.file.WriteAt(mark, int64(at-len(mark))); err != nil { // unlike a store, it may fail
			return fmt.Errorf("write carry: %w", err)
		}
	} else {
		copy(c.markOf(end, n), mark)
	}
	c.setBounds(start, end, n)
	return nil
}

// took says that n bytes were read into room; logged that the first n unlogged bytes are in the log. Between
// writing the log and this store a kill repeats a line: better than losing one.
func (c *carry) took(n int) {
	start, end, _ := c.bounds()
	c.touched = max(c.touched, carryHead+end+n)
	c.setBounds(start, end+n, 0)
}

func (c *carry) logged(n int) {
	start, end, _ := c.bounds()
	c.setBounds(start+n, end, 0)
}
