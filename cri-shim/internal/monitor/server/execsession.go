package server

import (
	"context"
	"os"
	"strconv"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/monitor/wire"
	"github.com/podwright/podwright/cri-shim/internal/proc"
	"github.com/podwright/podwright/cri-shim/internal/runc"
)

// hangupGrace is how long a command may take to end by itself when its client has left: its input is at its end, its
// terminal hung up, its output refused.
const hangupGrace = time.Second

// execSession runs a command on the client's streams until it ends, or the client leaves: then it is killed, and
// what it started with it.
func (s *Server) execSession(ctx context.Context, r *api.ExecSession, conn *wire.Conn, files []*os.File) (*api.Ended, error) {
	c, rt, err := s.find(ctx, r.Id)
	if err == nil {
		err = c.alive()
	}
	if err != nil {
		return nil, err
	}
	ends, err := take(files, r.Stdin && !r.Tty, r.Stdout && !r.Tty, r.Stderr && !r.Tty)
	if err != nil {
		return nil, err
	}
	spec, err := c.processSpec(r.Cmd, r.Tty)
	if err != nil {
		return nil, err
	}
	defer removeSpec(spec)
	start := func(io runc.IO) (int, <-chan proc.Status, error) {
		return c.launch(ctx, rt, spec, io)
	}
	var pid int
	var exited <-chan proc.Status
	if r.Tty {
		pid, exited, err = s.startOnTerminal(start, conn)
	} else if pid, exited, err = start(runc.IO{Stdin: ends[0], Stdout: ends[1], Stderr: ends[2]}); err == nil {
		err = begun(conn, false)
	}
	if exited == nil {
		return nil, err
	}
	if err != nil { // nobody is there to use it
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		cancel()
	}
	st, err := c.awaitClient(ctx, pid, exited)
	return &api.Ended{ExitCode: st.Code}, err
}

// awaitClient waits for the end of a command, which it may bring about itself when its client leaves.
func (c *container) awaitClient(ctx context.Context, pid int, exited <-chan proc.Status) (proc.Status, error) {
	select {
	case st := <-exited:
		return st, nil
	case <-ctx.Done():
	}
	select {
	case st := <-exited:
		return st, nil
	case <-time.After(hangupGrace):
		return c.await(ctx, pid, exited)
	}
}

// startOnTerminal gives the command a new terminal, and the client its master.
func (s *Server) startOnTerminal(start func(runc.IO) (int, <-chan proc.Status, error), conn *wire.Conn) (int, <-chan proc.Status, error) {
	con, err := listenConsole(s.files.sub("x" + strconv.FormatUint(s.serial.Add(1), 36)))
	if err != nil {
		return 0, nil, err
	}
	defer con.close()
	pid, exited, err := start(runc.IO{Console: con.path})
	if err != nil {
		return 0, nil, err
	}
	master, err := con.receive()
	if err != nil {
		return pid, exited, err
	}
	defer master.Close() // the client's is the only one: with the client the terminal hangs up
	return pid, exited, begun(conn, true, master)
}
