package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/log"
)

// libraryLog is the log of the library, which has one for the whole process and reads it without a lock: it is set
// once, before the library does anything.
var libraryLog = &logger{}

var setLog = sync.OnceFunc(func() { log.Set(libraryLog) })

// logger takes the library's log into ours. What it finds worth an information is of use to who looks for a fault.
type logger struct{ to atomic.Pointer[slog.Logger] }

func (l *logger) Debugf(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelDebug, format, args)
}

func (l *logger) Infof(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelDebug, format, args)
}

func (l *logger) Warnf(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelWarn, format, args)
}

// Errorf is a warning: the node goes on. That WASM was left out at the build is none.
func (l *logger) Errorf(ctx context.Context, format string, args ...any) {
	level := slog.LevelWarn
	for _, a := range args {
		if err, ok := a.(error); ok && errors.Is(err, adaptation.ErrWasmDisabled) {
			level = slog.LevelDebug
		}
	}
	l.write(ctx, level, format, args)
}

func (l *logger) write(ctx context.Context, level slog.Level, format string, args []any) {
	if to := l.to.Load(); to.Enabled(ctx, level) {
		to.Log(ctx, level, "NRI: "+fmt.Sprintf(format, args...))
	}
}
