package client

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const chunk = 32 * 1024

// copyAll copies until either side fails.
func copyAll(to io.Writer, from io.Reader) {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// tap copies one output of a command to its client. Without a file or a writer it does nothing.
type tap struct {
	from   *os.File
	to     io.Writer
	broken bool // the client is gone, or the output has ended
}

func newTap(from *os.File, to io.Writer) *tap { return &tap{from, to, from == nil || to == nil} }

// run copies until the output ends, the client leaves, or end.
func (t *tap) run() {
	if t.broken {
		return
	}
	buf := make([]byte, chunk)
	for {
		n, err := t.from.Read(buf)
		if n > 0 {
			if _, err := t.to.Write(buf[:n]); err != nil {
				t.broken = true
				_ = t.from.Close() // the command learns that nobody reads
				return
			}
		}
		if err != nil {
			t.broken = !errors.Is(err, os.ErrDeadlineExceeded)
			return
		}
	}
}

// end makes run return as soon as it waits for output.
func (t *tap) end() {
	if t.from != nil {
		_ = t.from.SetReadDeadline(time.Unix(1, 0))
	}
}

// drain copies what the command left in the pipe, which may be held open by a child that it left behind. It is
// called after run.
func (t *tap) drain() {
	const most = 1 << 20 // of a pipe; a child that goes on writing ends nothing
	if t.broken {
		return
	}
	buf := make([]byte, chunk)
	for total := 0; total < most; {
		n := t.readNow(buf)
		if n <= 0 {
			return
		}
		total += n
		if _, err := t.to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// readNow reads what is there.
func (t *tap) readNow(buf []byte) (n int) {
	conn, err := t.from.SyscallConn()
	if err != nil {
		return 0
	}
	_ = conn.Control(func(fd uintptr) {
		for {
			n, err = unix.Read(int(fd), buf)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	return n
}
