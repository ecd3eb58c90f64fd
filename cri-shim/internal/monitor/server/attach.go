package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

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

// member is one of them. Its ends are pipes that never block us. What they have no room for waits here: a client
// that reads is not dropped because it had no processor for a moment, or the container said much at once.
type member struct {
	ends  map[crilog.Stream]*end
	spare *allowance
	owed  int            // guarded by audience.mu; bytes that wait, those on the way into a pipe included
	left  chan struct{}  // closed when it gets nothing more
	slow  bool           // set before left is closed: it did not read
	work  sync.WaitGroup // of deliver
}

// end is the way of one stream to a member.
type end struct {
	pipe    *os.File // not blocking; a Write that finds no room waits for it, or until the pipe is closed
	waiting [][]byte // guarded by audience.mu
	busy    bool     // guarded by audience.mu; deliver runs
}

// pipeSize is what a pipe to a member holds, in bytes, where the kernel grants it.
const pipeSize = 1 << 20

// memberBacklog is what may wait for one member beside its pipes, monitorBacklog for all members of all containers.
const (
	memberBacklog  = 8 << 20
	monitorBacklog = 64 << 20
)

// allowance is memory that all members share, in bytes.
type allowance struct{ left atomic.Int64 }

func newAllowance(size int64) *allowance {
	a := &allowance{}
	a.left.Store(size)
	return a
}

// take takes n bytes, or none.
func (a *allowance) take(n int) bool {
	if a.left.Add(-int64(n)) < 0 {
		a.give(n)
		return false
	}
	return true
}

func (a *allowance) give(n int) { a.left.Add(int64(n)) }

// newMember takes the pipes over; nil: without this stream.
func newMember(spare *allowance, stdout, stderr *os.File) (*member, error) {
	m := &member{ends: map[crilog.Stream]*end{}, spare: spare, left: make(chan struct{})}
	for stream, f := range map[crilog.Stream]*os.File{crilog.Stdout: stdout, crilog.Stderr: stderr} {
		if f == nil {
			continue
		}
		fd := int(f.Fd())
		// Best effort: more than the default needs a privilege when many pipes are that large (pipe(7)).
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize)
		err := unix.SetNonblock(fd, true)
		var pipe *os.File
		if err == nil {
			pipe, err = duplicate(f) // only a file that is made of a non-blocking descriptor waits without a thread
		}
		if err != nil {
			m.close()
			return nil, fmt.Errorf("pipe of %s: %w", stream, err)
		}
		m.ends[stream] = &end{pipe: pipe}
	}
	wire.Close([]*os.File{stdout, stderr})
	return m, nil
}

func (m *member) close() {
	for _, e := range m.ends {
		_ = e.pipe.Close()
	}
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

// tell gives output to all members. It never waits: a member for whom too much waits already, or whose pipe has no
// reader any more, is dropped, so that neither the container nor its log nor the others notice.
func (a *audience) tell(stream crilog.Stream, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for m := range a.members {
		e := m.ends[stream]
		if e == nil {
			continue
		}
		rest := data
		if !e.busy {
			n, err := write1(e.pipe, data)
			if errors.Is(err, unix.EPIPE) {
				a.drop(m)
				continue
			}
			rest = data[n:]
		}
		if len(rest) > 0 && !a.keep(m, e, rest) {
			m.slow = true
			a.drop(m)
		}
	}
}

// write1 writes as much as there is room for.
func write1(f *os.File, data []byte) (n int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	fault := conn.Control(func(fd uintptr) {
		for n, err = unix.Write(int(fd), data); errors.Is(err, unix.EINTR); n, err = unix.Write(int(fd), data) {
		}
	})
	return max(n, 0), errors.Join(fault, err)
}

// keep lets data wait for a member; false when that is too much. a.mu is held.
func (a *audience) keep(m *member, e *end, data []byte) bool {
	if m.owed+len(data) > memberBacklog || !m.spare.take(len(data)) {
		return false
	}
	m.owed += len(data)
	e.waiting = append(e.waiting, bytes.Clone(data))
	if !e.busy {
		e.busy = true
		m.work.Go(func() { a.deliver(m, e) })
	}
	return true
}

// deliver puts what waits into the pipe, until nothing does any more or the member is dropped.
func (a *audience) deliver(m *member, e *end) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(e.waiting) > 0 {
		next := e.waiting[0]
		e.waiting[0], e.waiting = nil, e.waiting[1:]
		a.mu.Unlock()
		_, err := e.pipe.Write(next)
		a.mu.Lock()
		m.owed -= len(next)
		m.spare.give(len(next))
		if err != nil {
			a.drop(m)
		}
	}
	e.busy = false
	if a.over && m.owed == 0 {
		a.drop(m)
	}
}

// drop ends the output of m; a.mu is held.
func (a *audience) drop(m *member) {
	if !a.members[m] {
		return
	}
	delete(a.members, m)
	m.close()
	for _, e := range m.ends {
		for _, data := range e.waiting {
			m.owed -= len(data)
			m.spare.give(len(data))
		}
		e.waiting = nil
	}
	close(m.left)
}

// leave returns when nothing is done for m any more.
func (a *audience) leave(m *member) {
	a.mu.Lock()
	a.drop(m)
	a.mu.Unlock()
	m.work.Wait()
}

// end tells all that there is no more; a member for whom something waits, after it has read that.
func (a *audience) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	for m := range a.members {
		if m.owed == 0 {
			a.drop(m)
		}
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
	m, err := newMember(s.backlog, ends[0], ends[1])
	if err != nil {
		return nil, fmt.Errorf("attach to container %s: %w", c.rec.ID, err)
	}
	if !io.audience.join(m) {
		m.close()
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
