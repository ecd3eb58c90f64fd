package client

import (
	"context"
	"errors"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Start implements pod.Runtime.
func (c *Client) Start(ctx context.Context, s pod.StartSpec) (pod.Process, error) {
	p, err := call(ctx, c, true, func(m api.MonitorClient) (*api.Process, error) {
		return m.Start(ctx, &api.StartRequest{
			Id: string(s.ID), SandboxId: string(s.SandboxID), Bundle: s.Bundle, Handler: s.Handler,
			LogDirectory: s.LogDir, LogPath: s.LogPath,
			Tty: s.TTY, Stdin: s.Stdin, StdinOnce: s.StdinOnce, Restore: s.Restore,
		})
	})
	if err != nil {
		return pod.Process{}, err
	}
	return processIn(p), nil
}

// Signal implements pod.Runtime.
func (c *Client) Signal(ctx context.Context, id pod.ID, signal string) error {
	_, err := call(ctx, c, true, func(m api.MonitorClient) (*api.Empty, error) {
		return m.Signal(ctx, &api.SignalRequest{Id: string(id), Signal: signal})
	})
	return err
}

// Kill implements pod.Runtime.
func (c *Client) Kill(ctx context.Context, id pod.ID) error {
	return c.byID(ctx, id, api.MonitorClient.Kill)
}

// Delete implements pod.Runtime.
func (c *Client) Delete(ctx context.Context, id pod.ID) error {
	return c.byID(ctx, id, api.MonitorClient.Delete)
}

// ReopenLog implements pod.Runtime.
func (c *Client) ReopenLog(ctx context.Context, id pod.ID) error {
	return c.byID(ctx, id, api.MonitorClient.ReopenLog)
}

func (c *Client) byID(ctx context.Context, id pod.ID, method func(api.MonitorClient, context.Context, *api.IDRequest) (*api.Empty, error)) error {
	_, err := call(ctx, c, true, func(m api.MonitorClient) (*api.Empty, error) {
		return method(m, ctx, &api.IDRequest{Id: string(id)})
	})
	return err
}

// Exec implements pod.Runtime. It is not repeated: nobody knows whether the command ran. ttrpc does not tell the monitor
// that a caller has left: a command without a limit of time is run in a session, with which it ends.
func (c *Client) Exec(ctx context.Context, s pod.ExecSpec) (pod.ExecResult, error) {
	if _, bounded := ctx.Deadline(); !bounded && s.Timeout == 0 {
		var stdout, stderr output
		code, err := c.ExecStream(ctx, s, pod.Streams{Out: &stdout, Err: &stderr})
		return pod.ExecResult{Stdout: stdout, Stderr: stderr, ExitCode: code}, err
	}
	r, err := call(ctx, c, false, func(m api.MonitorClient) (*api.ExecResponse, error) {
		return m.Exec(ctx, &api.ExecRequest{Id: string(s.ID), Cmd: s.Cmd, Timeout: int64(s.Timeout)})
	})
	if err != nil {
		return pod.ExecResult{}, err
	}
	return pod.ExecResult{Stdout: r.Stdout, Stderr: r.Stderr, ExitCode: r.ExitCode}, nil
}

// output keeps the beginning of what is written to it.
type output []byte

// Write implements io.Writer; it takes everything.
func (o *output) Write(b []byte) (int, error) {
	const most = 4 << 20
	*o = append(*o, b[:min(len(b), most-len(*o))]...)
	return len(b), nil
}

// List implements pod.Runtime.
func (c *Client) List(ctx context.Context) ([]pod.Process, error) {
	r, err := call(ctx, c, true, func(m api.MonitorClient) (*api.ListResponse, error) {
		return m.List(ctx, &api.Empty{})
	})
	if err != nil {
		return nil, err
	}
	out := make([]pod.Process, 0, len(r.Processes))
	for _, p := range r.Processes {
		out = append(out, processIn(p))
	}
	return out, nil
}

// Watch implements pod.Runtime. When the monitor dies it starts another one at once, because nobody reads
// the containers' output until then.
func (c *Client) Watch(ctx context.Context, f func(pod.ID, pod.Exit)) error {
	const most = 5 * time.Second
	for pause := time.Duration(0); ; pause = min(2*pause+10*time.Millisecond, most) {
		begin := time.Now()
		err := c.watch(ctx, f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.opt.Logger.Warn("cri-monitor was lost", "err", err)
		if time.Since(begin) > most {
			pause = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (c *Client) watch(ctx context.Context, f func(pod.ID, pod.Exit)) error {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	stream, err := conn.api.Watch(ctx, &api.Empty{})
	if err != nil {
		c.lost(conn)
		return err
	}
	for {
		p, err := stream.Recv()
		if ctx.Err() != nil {
			return ctx.Err() // others go on using the connection
		}
		if err != nil {
			c.lost(conn)
			return errors.Join(err, conn.rpc.Close())
		}
		if q := processIn(p); q.Exit != nil {
			f(q.ID, *q.Exit)
		}
	}
}

func processIn(p *api.Process) pod.Process {
	out := pod.Process{ID: pod.ID(p.Id), PID: int(p.Pid), StartedAt: time.Unix(0, p.StartedAt)}
	if e := p.Exit; e != nil {
		out.Exit = &pod.Exit{Code: e.Code, Signal: e.Signal, OOMKilled: e.OomKilled, Lost: e.Lost, FinishedAt: time.Unix(0, e.FinishedAt)}
	}
	return out
}
