package stream

import (
	"context"
	"log/slog"
	"sync"

	"k8s.io/klog/v2"
)

// quietLibraries makes the libraries' logger, of which a process has one, write to ours. They call everything an
// error that a client does, and we log the outcome of each session ourselves.
func quietLibraries(l *slog.Logger) {
	quietOnce.Do(func() { klog.SetSlogLogger(slog.New(debugOnly{l.Handler()})) })
}

var quietOnce sync.Once

// debugOnly turns every record into one of the level debug.
type debugOnly struct{ slog.Handler }

// Enabled implements slog.Handler.
func (d debugOnly) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (d debugOnly) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}
