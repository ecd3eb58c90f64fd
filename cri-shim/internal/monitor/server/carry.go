package server

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// carry is the buffer between a container's output and its log. It is a shared mapping of a file on tmpfs,
// so that what was read from a FIFO and not yet logged outlives a killed monitor. The first 8 bytes hold
// the bounds of the unlogged bytes: start in the low half, end in the high half, changed in one store.
//
// A full file system must not stop a container, nor us: touching a page for which there is no room is a SIGBUS, and
// reading into one EFAULT. The output then goes through memory of our own, and what is in there dies with us.
type carry struct {
	mem    []byte
	mapped bool
}

const (
	carryHead = 64
	carrySize = 64*1024 + carryHead
)

// openCarry maps the file at path, which it makes if needed.
func openCarry(path string) (*carry, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open carry: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(carrySize); err != nil {
		return nil, fmt.Errorf("open carry: %w", err)
	}
	var head [8]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("open carry: %w", err)
	}
	_, err = f.WriteAt(head[:], 0) // makes room for the first page
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &carry{mem: make([]byte, carrySize)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open carry: %w", err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, carrySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map carry: %w", err)
	}
	c := &carry{mem, true}
	if start, end := c.bounds(); start > end || end > len(c.data()) {
		c.setBounds(0, 0)
	}
	return c, nil
}

func (c *carry) close() error {
	if !c.mapped {
		return nil
	}
	return unix.Munmap(c.mem)
}

// leaveFile goes on in memory of our own. The next monitor finds nothing in the file.
func (c *carry) leaveFile() error {
	own := &carry{mem: make([]byte, carrySize)}
	own.setBounds(0, copy(own.data(), c.unlogged()))
	c.setBounds(0, 0)
	err := c.close()
	*c = *own
	return err
}

func (c *carry) head() *uint64 { return (*uint64)(unsafe.Pointer(&c.mem[0])) } // page aligned
func (c *carry) data() []byte  { return c.mem[carryHead:] }

func (c *carry) bounds() (start, end int) {
	v := atomic.LoadUint64(c.head())
	return int(uint32(v)), int(v >> 32)
}

func (c *carry) setBounds(start, end int) {
	if start == end {
		start, end = 0, 0
	}
	atomic.StoreUint64(c.head(), uint64(uint32(start))|uint64(end)<<32)
}

// unlogged is what was read and not yet logged.
func (c *carry) unlogged() []byte {
	start, end := c.bounds()
	return c.data()[start:end]
}

// room is where the next read goes. The unlogged rest is at most one log line long, so that moving it to
// the front never overlaps where it stands.
func (c *carry) room() []byte {
	start, end := c.bounds()
	if end == len(c.data()) {
		n := copy(c.data(), c.data()[start:end])
		c.setBounds(0, n)
		end = n
	}
	return c.data()[end:]
}

// took says that n bytes were read into room; logged that the first n unlogged bytes are in the log. Between
// writing the log and this store a kill repeats a line: better than losing one.
func (c *carry) took(n int) {
	start, end := c.bounds()
	c.setBounds(start, end+n)
}

func (c *carry) logged(n int) {
	start, end := c.bounds()
	c.setBounds(start+n, end)
}
