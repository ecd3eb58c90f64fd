package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/monitor/wire"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// session is one command or attachment with streams of its own; see session.proto.
type session struct {
	conn *wire.Conn
	stop func() bool
}

// open connects, asks, and waits for the beginning. The files are given away, also when it fails. When ctx ends
// the session ends.
func (c *Client) open(ctx context.Context, r *api.SessionRequest, files ...*os.File) (*session, *os.File, error) {
	defer wire.Close(files)
	if err := c.Ensure(ctx); err != nil {
		return nil, nil, err
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", c.opt.Layout.SessionSocket())
	if err != nil {
		return nil, nil, fmt.Errorf("reach cri-monitor (one before 0.1.0 has no streams): %w: %w", err, errdefs.ErrUnavailable)
	}
	s := &session{conn: wire.New(raw.(*net.UnixConn))}
	s.stop = context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	if err := s.conn.Send(r, files...); err != nil {
		s.close()
		return nil, nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	reply, given, err := s.next(ctx)
	if err == nil && reply.GetBegun() == nil {
		err = fmt.Errorf("cri-monitor began a session by %T", reply.What)
	}
	if err != nil {
		wire.Close(given)
		s.close()
		return nil, nil, err
	}
	if len(given) > 0 {
		return s, given[0], nil
	}
	return s, nil, nil
}

func (s *session) close() {
	s.stop()
	_ = s.conn.Close()
}

// next waits for what the monitor says.
func (s *session) next(ctx context.Context) (*api.SessionReply, []*os.File, error) {
	reply := &api.SessionReply{}
	files, err := s.conn.Receive(reply)
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err != nil:
		err = fmt.Errorf("cri-monitor was lost: %w: %w", err, errdefs.ErrUnavailable)
	case reply.GetFailure() != nil:
		f := reply.GetFailure()
		err = fromWire(status.Error(codes.Code(f.Code), f.Message))
	}
	if err != nil {
		wire.Close(files)
		return nil, nil, err
	}
	return reply, files, nil
}

// ended waits for the end.
func (s *session) ended(ctx context.Context) (*api.Ended, error) {
	reply, files, err := s.next(ctx)
	if err != nil {
		return nil, err
	}
	wire.Close(files)
	if reply.GetEnded() == nil {
		return nil, fmt.Errorf("cri-monitor ended a session by %T", reply.What)
	}
	return reply.GetEnded(), nil
}

// pipe returns its two ends; far is for the container's side, and blocks.
type pipe struct{ near, far *os.File }

// pipes makes a pipe for the input, and one for each of the outputs, where they are wanted.
func pipes(in, out, err bool) (p [3]pipe, failed error) {
	for i, want := range []bool{in, out, err} {
		if !want {
			continue
		}
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			closePipes(p)
			return p, fmt.Errorf("make pipe: %w", err)
		}
		near, far := fds[0], fds[1]
		if i == 0 {
			near, far = far, near
		}
		_ = unix.SetNonblock(near, true)
		p[i] = pipe{os.NewFile(uintptr(near), "near"), os.NewFile(uintptr(far), "far")}
	}
	return p, nil
}

func closePipes(p [3]pipe) {
	for _, e := range p {
		wire.Close([]*os.File{e.near, e.far})
	}
}

func far(p [3]pipe) []*os.File {
	var files []*os.File
	for _, e := range p {
		if e.far != nil {
			files = append(files, e.far)
		}
	}
	return files
}

// ExecStream runs a command in a container with its streams on s, and returns its exit code. When ctx ends, so
// does the command, with all it has started. What the command wrote before its end arrives; what a child that
// it left behind writes later does not.
func (c *Client) ExecStream(ctx context.Context, e pod.ExecSpec, s pod.Streams) (int32, error) {
	r := &api.ExecSession{Id: string(e.ID), Cmd: e.Cmd, Tty: s.TTY, Stdin: s.In != nil, Stdout: s.Out != nil, Stderr: s.Err != nil}
	var p [3]pipe
	if !s.TTY {
		var err error
		if p, err = pipes(r.Stdin, r.Stdout, r.Stderr); err != nil {
			return 0, err
		}
	}
	defer closePipes(p)
	ses, master, err := c.open(ctx, &api.SessionRequest{What: &api.SessionRequest_Exec{Exec: r}}, far(p)...)
	if err != nil {
		return 0, err
	}
	defer ses.close()
	if s.TTY {
		if master == nil {
			return 0, errors.New("cri-monitor sent no terminal")
		}
		defer master.Close()
		p[0].near, p[1].near = master, master
		if s.Out == nil {
			s.Out = io.Discard // a terminal that nobody reads blocks
		}
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	if s.TTY && s.Resize != nil {
		work.Go(func() { resize(master, s.Resize, stop) })
	}
	feed(s, p[0].near)
	taps := []*tap{newTap(p[1].near, s.Out), newTap(p[2].near, s.Err)}
	for _, t := range taps {
		work.Go(t.run)
	}
	ended, err := ses.ended(ctx)
	close(stop)
	for _, t := range taps {
		t.end()
	}
	work.Wait()
	for _, t := range taps {
		if err == nil {
			t.drain()
		}
	}
	return ended.GetExitCode(), err
}

// feed copies the input until its end, or until to is closed.
func feed(s pod.Streams, to *os.File) {
	if s.In == nil || to == nil {
		return
	}
	s.Go(func() {
		copyAll(to, s.In)
		if !s.TTY { // a terminal is read from, too
			_ = to.Close()
		}
	})
}

// resize sets the size of a terminal until stop.
func resize(master *os.File, sizes <-chan pod.Size, stop <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			conn, err := master.SyscallConn()
			if err != nil {
				return
			}
			_ = conn.Control(func(fd uintptr) {
				_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
			})
		case <-stop:
			return
		}
	}
}
