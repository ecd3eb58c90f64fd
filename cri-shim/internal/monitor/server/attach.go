package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/monitor/wire"
)

// audience is those who are attached to a container's output.
type audience struct {
	mu      sync.Mutex
	members map[*member]bool // guarded by mu
	over    bool             // guarded by mu; there will be no more output
}

// member is one of them. Its ends are pipes that never block us; what a member has not read yet is in them.
type member struct {
	ends map[crilog.Stream]*os.File
	left chan struct{} // closed when it gets nothing more
	slow bool          // set before left is closed: it did not read
}

// pipeSize is what a member may lag behind, in bytes, where the kernel grants it.
const pipeSize = 1 << 20

func newMember(stdout, stderr *os.File) *member {
	m := &member{ends: map[crilog.Stream]*os.File{}, left: make(chan struct{})}
	for stream, f := range map[crilog.Stream]*os.File{crilog.Stdout: stdout, crilog.Stderr: stderr} {
		if f == nil {
			continue
		}
		// Best effort: more than the default needs a privilege when many pipes are that large (pipe(7)).
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize)
		_ = unix.SetNonblock(int(f.Fd()), true)
		m.ends[stream] = f
	}
	return m
}

// join begins to give output to m; false when there will be none.
func (a *audience) join(m *member) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return false
	}
	if a.members == nil {
		a.members = map[*member]bool{}
	}
	a.members[m] = true
	return true
}

// tell gives output to all members. It never waits: a member whose pipe is full, or has no reader any more, is
// dropped, so that neither the container nor its log nor the others notice.
func (a *audience) tell(stream crilog.Stream, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for m := range a.members {
		f := m.ends[stream]
		if f == nil {
			continue
		}
		if n, err := write1(f, data); n < len(data) {
			m.slow = !errors.Is(err, unix.EPIPE)
			a.drop(m)
		}
	}
}

// write1 writes as much as there is room for.
func write1(f *os.File, data []byte) (int, error) {
	for {
		n, err := unix.Write(int(f.Fd()), data)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// drop ends the output of m; a.mu is held.
func (a *audience) drop(m *member) {
	if !a.members[m] {
		return
	}
	delete(a.members, m)
	for _, f := range m.ends {
		_ = f.Close()
	}
	close(m.left)
}

func (a *audience) leave(m *member) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(m)
}

// end tells all that there is no more.
func (a *audience) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	for m := range a.members {
		a.drop(m)
	}
}

// attachment is what a client attaches with.
type attachment struct {
	conn    *wire.Conn
	files   []*os.File
	updates <-chan *api.SessionUpdate
}

// attachSession gives a client the output of a container, and the way to its input, until either leaves.
func (s *Server) attachSession(ctx context.Context, r *api.AttachSession, at attachment) (*api.Ended, error) {
	c, _, err := s.find(ctx, r.Id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	io := c.io
	c.mu.Unlock()
	if io == nil {
		return nil, c.noStreams()
	}
	ends, err := take(at.files, r.Stdout, r.Stderr)
	if err != nil {
		return nil, err
	}
	var given []*os.File
	if r.Stdin {
		input, err := io.input(c.rec)
		if err != nil {
			return nil, fmt.Errorf("attach to container %s: %w", c.rec.ID, err)
		}
		defer input.Close()
		given = append(given, input)
	}
	m := newMember(ends[0], ends[1])
	if !io.audience.join(m) {
		return nil, c.noStreams()
	}
	defer io.audience.leave(m)
	if err := begun(at.conn, c.rec.TTY, given...); err != nil {
		return nil, err
	}
	wire.Close(given) // the client's is the only one
	if r.Stdin && c.rec.StdinOnce {
		defer io.closeStdin()
	}
	for {
		select {
		case <-m.left:
			return &api.Ended{Dropped: m.slow}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case u := <-at.updates:
			if !u.StdinEnded || !r.Stdin {
				continue
			}
			if c.rec.TTY || !c.rec.StdinOnce {
				return &api.Ended{}, nil
			}
			io.closeStdin()
		}
	}
}

// noStreams says why a container cannot be attached to.
func (c *container) noStreams() error {
	if err := c.alive(); err != nil {
		return err
	}
	return fmt.Errorf("container %s has lost its terminal with the cri-monitor that held it: %w", c.rec.ID, errdefs.ErrFailedPrecondition)
}

// input opens the way to the container's standard input.
func (s *stdio) input(r record) (*os.File, error) {
	if !r.Stdin {
		return nil, fmt.Errorf("its standard input is not open (stdin): %w", errdefs.ErrFailedPrecondition)
	}
	if r.TTY {
		return duplicate(s.sources[0])
	}
	if r.StdinOnce && !s.holdsStdin() {
		return nil, fmt.Errorf("its standard input was closed after the first attachment (stdin_once): %w", errdefs.ErrFailedPrecondition)
	}
	f, err := os.OpenFile(fifo(r.Bundle, "stdin"), os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("it has closed its standard input: %w", errdefs.ErrFailedPrecondition)
	}
	return f, err
}

func duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	if err := conn.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("dup", dupErr)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (s *stdio) holdsStdin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stdin != nil
}

// closeStdin lets a stdin_once container see the end of its input, once no attachment writes to it any more.
func (s *stdio) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil {
		_ = s.stdin.Close()
		s.stdin = nil
	}
}
