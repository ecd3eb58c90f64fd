package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/monitor/wire"
)

// sessions serves those who want the streams of a command or of a container. It moves no byte of them: it gives
// the OCI runtime the client's descriptors, and the client those of the container.
type sessions struct {
	s      *Server
	l      *net.UnixListener
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// openSessions begins to serve; close ends all sessions, and waits for them.
func (s *Server) openSessions(ctx context.Context) (*sessions, error) {
	l, err := s.listen(s.cfg.Layout.SessionSocket())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &sessions{s: s, l: l, cancel: cancel}
	p.work.Go(func() { p.accept(ctx) })
	return p, nil
}

func (p *sessions) close() {
	p.cancel()
	_ = p.l.Close()
	p.work.Wait()
}

func (p *sessions) accept(ctx context.Context) {
	for l := (countingListener{p.l, p.s}); ; {
		raw, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files: it passes, and the client waits
			p.s.log.Warn("accept a session", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
				continue
			}
		}
		p.work.Go(func() {
			defer raw.Close()
			p.serve(ctx, wire.New(raw.(*countedConn).UnixConn))
		})
	}
}

// serve answers one client. Its connection ends with the session, and the session with its connection.
func (p *sessions) serve(ctx context.Context, conn *wire.Conn) {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var r api.SessionRequest
	files, err := conn.Receive(&r)
	if err != nil {
		return // it has left, or is none of ours
	}
	defer func() { wire.Close(files) }()
	ctx, cancel := context.WithCancel(ctx)
	updates := make(chan *api.SessionUpdate)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer cancel()
		listenTo(ctx, conn, updates)
	})
	defer reader.Wait()
	defer func() { _ = conn.Close() }()
	defer cancel()
	var ended *api.Ended
	switch what := r.What.(type) {
	case *api.SessionRequest_Exec:
		ended, err = p.s.execSession(ctx, what.Exec, conn, files)
	case *api.SessionRequest_Attach:
		ended, err = p.s.attachSession(ctx, what.Attach, attachment{conn, files, updates})
	default:
		err = fmt.Errorf("this cri-monitor does not know that kind of session: %w", errdefs.ErrNotImplemented)
	}
	p.s.log.Debug("session", "err", err)
	_ = conn.Send(last(ended, err)) // it may have left
}

// listenTo hands on what a client says until it leaves.
func listenTo(ctx context.Context, conn *wire.Conn, updates chan<- *api.SessionUpdate) {
	for {
		u := &api.SessionUpdate{}
		files, err := conn.Receive(u)
		if err != nil {
			return
		}
		wire.Close(files)
		select {
		case updates <- u:
		case <-ctx.Done():
			return
		}
	}
}

func last(ended *api.Ended, err error) *api.SessionReply {
	if err == nil {
		return &api.SessionReply{What: &api.SessionReply_Ended{Ended: ended}}
	}
	code := codes.Internal
	for _, m := range codeOf {
		if errors.Is(err, m.class) {
			code = m.code
			break
		}
	}
	return &api.SessionReply{What: &api.SessionReply_Failure{Failure: &api.Failure{Code: int32(code), Message: err.Error()}}}
}

func begun(conn *wire.Conn, terminal bool, files ...*os.File) error {
	return conn.Send(&api.SessionReply{What: &api.SessionReply_Begun{Begun: &api.Begun{Terminal: terminal}}}, files...)
}

// take gives each of the wanted streams its file, in order; nil for the others.
func take(files []*os.File, want ...bool) ([]*os.File, error) {
	out := make([]*os.File, len(want))
	for i, w := range want {
		if !w {
			continue
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("a stream came without its descriptor: %w", errdefs.ErrInvalidArgument)
		}
		out[i], files = files[0], files[1:]
	}
	if len(files) > 0 {
		return nil, fmt.Errorf("%d descriptors too many: %w", len(files), errdefs.ErrInvalidArgument)
	}
	return out, nil
}
