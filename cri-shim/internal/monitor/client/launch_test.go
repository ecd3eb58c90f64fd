package client

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/pkg/durable"
)

// TestMonitorThatStarts: systemd has started one that takes over containers and does not answer yet. Ours ends at once,
// because there is one already.
func TestMonitorThatStarts(t *testing.T) {
	layout := paths.Layout{State: t.TempDir()}
	if err := os.MkdirAll(layout.Monitor(), 0o700); err != nil {
		t.Fatal(err)
	}
	c := New(Options{Layout: layout, Binary: "/bin/false", Logger: slog.New(slog.DiscardHandler), Patience: 5 * time.Second})
	defer func() { _ = c.Close() }()
	begin := time.Now()
	if err := c.Ensure(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) || time.Since(begin) > 2*time.Second {
		t.Errorf("without another one: %v after %s", err, time.Since(begin))
	}
	lock, err := durable.TryAcquire(filepath.Join(layout.Monitor(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Release() }()
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	srv.RegisterService("podwright.monitor.v1.Monitor", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Info": func(context.Context, func(any) error) (any, error) { return &api.InfoResponse{}, nil },
	}})
	served := make(chan error, 1)
	go func() {
		time.Sleep(700 * time.Millisecond)
		l, err := net.Listen("unix", layout.MonitorSocket())
		if err == nil {
			err = srv.Serve(context.Background(), l)
		}
		served <- err
	}()
	if err := c.Ensure(t.Context()); err != nil {
		t.Errorf("beside another one: %v", err)
	}
	_ = srv.Close()
	<-served
}
