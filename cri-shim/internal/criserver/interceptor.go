package criserver

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// gate stands before every handler: nothing is answered before recovery is done, errors get their
// codes, a panic ends only its own call, and each call leaves one line in the log.
type gate struct {
	ready  <-chan struct{}
	tell   func(method string) func(code string) // may be nil
	logger *slog.Logger
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	begin := time.Now()
	err = g.guard(info.FullMethod, func() (err error) {
		resp, err = handler(ctx, req)
		return err
	})
	g.log(ctx, info.FullMethod, req, begin, err)
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	begin := time.Now()
	err := g.guard(info.FullMethod, func() error {
		err := handler(srv, ss)
		if _, ok := status.FromError(err); ok && err != nil && ss.Context().Err() != nil {
			return ss.Context().Err() // gRPC's own words for a caller that has left
		}
		return err
	})
	g.log(ss.Context(), info.FullMethod, nil, begin, err)
	return err
}

// guard runs call when the server is ready and returns a status.
func (g *gate) guard(method string, call func() error) (err error) {
	if g.tell != nil {
		ended := g.tell(path.Base(method))
		defer func() { ended(status.Code(err).String()) }()
	}
	defer func() {
		if r := recover(); r != nil {
			g.logger.Error("panic", "method", path.Base(method), "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: a bug in cri-shim, see its log: %w", path.Base(method), errdefs.ErrInternal)
		}
		err = statusOf(err)
	}()
	select {
	case <-g.ready:
		return call()
	default:
		return fmt.Errorf("cri-shim is starting and has not read its records yet: %w", errdefs.ErrUnavailable)
	}
}

// log never prints a request: it holds passwords and environments. The id is enough to find it again.
func (g *gate) log(ctx context.Context, method string, req any, begin time.Time, err error) {
	attrs := []slog.Attr{
		slog.String("method", path.Base(method)),
		slog.Duration("took", time.Since(begin).Round(time.Microsecond)),
	}
	attrs = append(attrs, subject(req)...)
	if err != nil {
		attrs = append(attrs, slog.String("code", status.Code(err).String()), slog.String("err", status.Convert(err).Message()))
	}
	g.logger.LogAttrs(ctx, levelOf(err), "call", attrs...)
}

// levelOf keeps what callers do all day, and what is no fault, out of the ordinary log.
func levelOf(err error) slog.Level {
	switch status.Code(err) {
	case codes.OK, codes.NotFound, codes.Canceled, codes.Unimplemented:
		return slog.LevelDebug
	case codes.Internal, codes.DataLoss:
		return slog.LevelError
	}
	return slog.LevelWarn
}

func subject(req any) []slog.Attr {
	var attrs []slog.Attr
	if r, ok := req.(interface{ GetPodSandboxId() string }); ok {
		attrs = append(attrs, slog.String("pod", cut(r.GetPodSandboxId())))
	}
	if r, ok := req.(interface{ GetContainerId() string }); ok {
		attrs = append(attrs, slog.String("container", cut(r.GetContainerId())))
	}
	return attrs
}

// cut bounds what a caller can make us write.
func cut(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
