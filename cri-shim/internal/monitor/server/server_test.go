package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/pkg/durable"
)

// TestStandby: there is one monitor; another one fails, or waits until it may be the one.
func TestStandby(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := durable.TryAcquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := acquire(t.Context(), path, false); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("not waiting: %v", err)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if lock, err := acquire(ended, path, true); lock != nil || err != nil {
		t.Errorf("told to end while it waits: %v, %v", lock, err)
	}
	got := make(chan error, 1)
	go func() {
		second, err := acquire(t.Context(), path, true)
		if second == nil {
			err = errors.Join(err, errors.New("no lock"))
		} else {
			err = second.Release()
		}
		got <- err
	}()
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestSecondMonitorTouchesNothing: what looks left over may be what the first one is about to write.
func TestSecondMonitorTouchesNothing(t *testing.T) {
	layout := paths.Layout{State: t.TempDir()}
	files, err := newArchive(layout.Monitor())
	if err != nil {
		t.Fatal(err)
	}
	first, err := durable.TryAcquire(files.sub("lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Release() }()
	writing := files.exitFile("c.durable-tmp-1")
	if err := os.WriteFile(writing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Layout: layout, Runtimes: map[string]string{"": "/bin/false"}, Logger: slog.New(slog.DiscardHandler)}
	if err := Run(t.Context(), cfg); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(writing); err != nil {
		t.Error(err)
	}
}
