package server

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/runc"
)

// codeOf maps the classes of errors to the codes of the wire; the first match wins. Aborted is runc.ErrStart:
// no other error of ours has it.
var codeOf = []struct {
	class error
	code  codes.Code
}{
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
	{runc.ErrStart, codes.Aborted},
	{errdefs.ErrInvalidArgument, codes.InvalidArgument},
	{errdefs.ErrNotFound, codes.NotFound},
	{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
	{errdefs.ErrUnavailable, codes.Unavailable},
}

func (s *Server) intercept(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	begin := time.Now()
	resp, err := method(ctx, decode)
	s.log.Debug("call", "method", info.FullMethod, "took", time.Since(begin), "err", err)
	if err == nil {
		return resp, nil
	}
	return nil, toWire(err)
}

func toWire(err error) error {
	if err == nil {
		return nil
	}
	for _, m := range codeOf {
		if errors.Is(err, m.class) {
			return status.Error(m.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}

// Info implements the protocol.
func (s *Server) Info(context.Context, *api.InfoRequest) (*api.InfoResponse, error) {
	return &api.InfoResponse{Version: s.cfg.Version, Pid: int64(os.Getpid())}, nil
}

// Start implements the protocol. Repeating it returns the process that runs.
func (s *Server) Start(ctx context.Context, r *api.StartRequest) (*api.Process, error) {
	if err := validStart(r); err != nil {
		return nil, err
	}
	rt, err := s.runtime(r.Handler)
	if err != nil {
		return nil, err
	}
	c, ours := s.begin(record{
		ID: r.Id, SandboxID: r.SandboxId, Bundle: r.Bundle, Handler: r.Handler, Runtime: rt.Binary, LogDir: r.LogDirectory, LogPath: r.LogPath,
		TTY: r.Tty, Stdin: r.Stdin, StdinOnce: r.StdinOnce, Restore: r.Restore,
	})
	if !ours {
		if err := c.running(ctx); err != nil {
			return nil, err
		}
		return c.process(), nil
	}
	// The start goes on when the caller leaves: half a start helps nobody.
	ctx = context.WithoutCancel(ctx)
	if err := c.start(ctx, rt); err != nil {
		if cleanup := c.remove(ctx, rt); cleanup != nil {
			return nil, errors.Join(err, cleanup) // it stays known, so that Delete finds it
		}
		s.drop(c)
		return nil, err
	}
	return c.process(), nil
}

func (c *container) process() *api.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &api.Process{Id: c.rec.ID, Pid: int64(c.rec.PID), StartedAt: c.rec.StartedAt.UnixNano()}
	if e := c.end; e != nil {
		p.Exit = &api.Exit{Code: e.Code, Signal: e.Signal, OomKilled: e.OOMKilled, Lost: e.Lost, FinishedAt: e.FinishedAt.UnixNano()}
	}
	return p
}

// Signal implements the protocol; a container that is not there, or has ended, is success.
func (s *Server) Signal(ctx context.Context, r *api.SignalRequest) (*api.Empty, error) {
	c, _, err := s.find(ctx, r.Id)
	if err == nil {
		err = c.signal(r.Signal)
	}
	return &api.Empty{}, goneIsFine(err)
}

// Kill implements the protocol; a container that is not there, or has ended, is success.
func (s *Server) Kill(ctx context.Context, r *api.IDRequest) (*api.Empty, error) {
	c, _, err := s.find(ctx, r.Id)
	if err == nil {
		err = c.kill(ctx)
	}
	return &api.Empty{}, goneIsFine(err)
}

// Delete implements the protocol; a container that is not there is success.
func (s *Server) Delete(ctx context.Context, r *api.IDRequest) (*api.Empty, error) {
	c, rt, err := s.find(ctx, r.Id)
	if err == nil {
		err = c.remove(ctx, rt)
	}
	if err == nil {
		s.drop(c)
	}
	return &api.Empty{}, goneIsFine(err)
}

// Exec implements the protocol.
func (s *Server) Exec(ctx context.Context, r *api.ExecRequest) (*api.ExecResponse, error) {
	c, rt, err := s.find(ctx, r.Id)
	if err != nil {
		return nil, err
	}
	stdout, stderr, code, err := c.exec(ctx, rt, r.Cmd, time.Duration(r.Timeout))
	if err != nil {
		return nil, err
	}
	return &api.ExecResponse{Stdout: stdout, Stderr: stderr, ExitCode: code}, nil
}

// ReopenLog implements the protocol.
func (s *Server) ReopenLog(ctx context.Context, r *api.IDRequest) (*api.Empty, error) {
	c, _, err := s.find(ctx, r.Id)
	if err == nil {
		err = c.reopenLog()
	}
	return &api.Empty{}, err
}

// List implements the protocol. Starts in flight, and those that failed, are not in it.
func (s *Server) List(context.Context, *api.Empty) (*api.ListResponse, error) {
	resp := &api.ListResponse{}
	for _, c := range s.all() {
		select {
		case <-c.begun:
			if p := c.process(); p.Pid != 0 && !c.failed() {
				resp.Processes = append(resp.Processes, p)
			}
		default:
		}
	}
	return resp, nil
}

func (s *Server) all() []*container {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	return all
}

// Watch implements the protocol.
func (s *Server) Watch(ctx context.Context, _ *api.Empty, stream api.Monitor_WatchServer) error {
	wake := make(chan struct{}, 1)
	s.mu.Lock()
	s.watchers[wake] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, wake)
		s.mu.Unlock()
	}()
	told := map[*container]bool{}
	for {
		next := make(map[*container]bool, len(told))
		for _, c := range s.all() {
			p := c.process()
			if p.Exit == nil {
				continue
			}
			if !told[c] {
				if err := stream.Send(p); err != nil {
					return err
				}
			}
			next[c] = true
		}
		told = next
		select {
		case <-wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func goneIsFine(err error) error {
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}
