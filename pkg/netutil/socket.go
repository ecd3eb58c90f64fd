package netutil

import (
	"encoding/binary"
	"fmt"
	"io"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// socket is a netlink(7) socket for requests, for one goroutine at a time. The kernel answers before it returns from
// send(2), so nobody ever waits, and Go's poller, which the library's sockets are registered with, has no part. All
// answers go through one buffer.
type socket struct {
	fd  int
	seq uint32
	buf []byte
}

// maxAnswer is the room for one datagram of the kernel, in bytes; it makes none of a dump larger than 32 KiB.
const maxAnswer = 64 << 10

// openSocket makes a socket of a netlink protocol, in the namespace of the calling thread, where it stays.
func openSocket(protocol int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &socket{fd: fd, buf: make([]byte, maxAnswer)}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// request sends one message and returns what the kernel answers, without the headers. Its refusal is a syscall.Errno.
func (s *socket) request(kind, flags int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	s.seq++
	req := nl.NewNetlinkRequest(kind, flags)
	req.Seq = s.seq
	for _, d := range data {
		req.AddData(d)
	}
	if err := ignoringEINTR(func() error {
		return unix.Sendto(s.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}); err != nil {
		return nil, err
	}
	var out [][]byte
	var changed error
	for {
		answers, err := s.receive()
		if err != nil {
			return nil, err
		}
		for _, m := range answers {
			if m.Header.Seq != s.seq {
				continue // what was left of an earlier request
			}
			if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
				changed = netlink.ErrDumpInterrupted
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if errno := errnoOf(m.Data); errno != 0 {
					return nil, errno
				}
				return out, changed
			}
			out = append(out, append([]byte(nil), m.Data...))
			if m.Header.Flags&unix.NLM_F_MULTI == 0 {
				return out, changed
			}
		}
	}
}

// receive returns the messages of one datagram. They are valid until the next one. Only the kernel, whose port is 0, is
// listened to: whoever may change the namespace, a pod perhaps, may send to its sockets.
func (s *socket) receive() ([]syscall.NetlinkMessage, error) {
	var n int
	var from unix.Sockaddr
	err := ignoringEINTR(func() (err error) {
		n, from, err = unix.Recvfrom(s.fd, s.buf, unix.MSG_TRUNC)
		return err
	})
	if sender, is := from.(*unix.SockaddrNetlink); err == nil && is && sender.Pid != 0 {
		return nil, nil
	}
	if err == nil && n > len(s.buf) {
		err = fmt.Errorf("netlink answer of %d bytes: %w", n, io.ErrShortBuffer)
	}
	if err != nil {
		return nil, err
	}
	return syscall.ParseNetlinkMessage(s.buf[:n])
}

// errnoOf reads the end of an answer; NLMSG_DONE may come without a number.
func errnoOf(data []byte) syscall.Errno {
	if len(data) < 4 {
		return 0
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(data)))
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR { //nolint:errorlint // straight from the kernel
			return err
		}
	}
}
