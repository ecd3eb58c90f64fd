// Package wire carries protobuf messages, and file descriptors with them, over a unix socket. It is what
// cri-shim and cri-monitor hand streams to each other by; what the messages mean is theirs.
//
// Crash story: a connection ends with either side, and the kernel closes descriptors under way.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const (
	maxMessage = 4 << 20 // a command line is at most half of it (execve(2))
	maxFiles   = 3
)

// Conn is one connection. Sending and receiving may go on at the same time, but only one of each.
type Conn struct {
	c *net.UnixConn
}

// New makes a Conn of a connected stream socket.
func New(c *net.UnixConn) *Conn { return &Conn{c} }

// Close ends the connection; messages and descriptors sent before still arrive.
func (c *Conn) Close() error { return c.c.Close() }

// Send sends a message with at most three open files, which stay open here.
func (c *Conn) Send(m proto.Message, files ...*os.File) error {
	body, err := proto.Marshal(m)
	if err == nil && (len(body) > maxMessage || len(files) > maxFiles) {
		err = fmt.Errorf("%d bytes, %d files: at most %d and %d", len(body), len(files), maxMessage, maxFiles)
	}
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = descriptor(f); err != nil {
				return fmt.Errorf("send message: %w", err)
			}
		}
		rights = unix.UnixRights(fds...)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	// The kernel takes a stream's first bytes together with the descriptors or not at all (unix(7)).
	n, _, err := c.c.WriteMsgUnix(head, rights, nil)
	if err == nil {
		_, err = c.c.Write(append(head[n:], body...))
	}
	runtime.KeepAlive(files)
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Receive waits for the next message and returns the files that came with it; io.EOF says that the other side
// has closed.
func (c *Conn) Receive(m proto.Message) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			Close(files)
			files = nil
		}
	}()
	head, rights := make([]byte, 4), make([]byte, unix.CmsgSpace(4*maxFiles))
	for got := 0; got < len(head); {
		n, k, flags, _, err := c.c.ReadMsgUnix(head[got:], rights)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return files, err
		}
		got += n
		more, err := filesOf(rights[:k])
		files = append(files, more...)
		if err == nil && flags&unix.MSG_CTRUNC != 0 {
			err = errors.New("more files than fit")
		}
		if err != nil {
			return files, fmt.Errorf("receive message: %w", err)
		}
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxMessage {
		return files, fmt.Errorf("receive message: %d bytes, at most %d", size, maxMessage)
	}
	body := make([]byte, size)
	if _, err = io.ReadFull(c.c, body); err == nil {
		err = proto.Unmarshal(body, m)
	}
	if err != nil {
		return files, fmt.Errorf("receive message: %w", err)
	}
	return files, nil
}

// descriptor leaves the file in the mode that it is in, which os.File.Fd does not.
func descriptor(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	err = conn.Control(func(fd uintptr) { n = int(fd) })
	return n, err
}

// filesOf takes the files out of control messages; ReadMsgUnix has made them close-on-exec.
func filesOf(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// Close closes files; nil ones are none.
func Close(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
