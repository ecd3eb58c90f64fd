// Package monitor is the door to cri-monitor for its command: what is behind it is internal to cri-shim, and
// this package imports nothing of cri-shim that the monitor does not need.
package monitor

import (
	"context"
	"log/slog"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/monitor/server"
	"github.com/podwright/podwright/cri-shim/internal/paths"
)

// Config is what a monitor is told at its start.
type Config struct {
	State         string            // cri-shim's state directory
	Runtimes      map[string]string // handler → absolute path of an OCI runtime; "" is the default one
	SystemdCgroup bool
	IdleExit      time.Duration // 0: never
	Wait          bool          // stand by while another monitor serves, instead of failing
	Version       string
	Logger        *slog.Logger
}

// Run serves until ctx ends, or until the monitor was idle for long enough. Containers run on.
func Run(ctx context.Context, cfg Config) error {
	return server.Run(ctx, server.Config{
		Layout: paths.Layout{State: cfg.State}, Runtimes: cfg.Runtimes, SystemdCgroup: cfg.SystemdCgroup,
		IdleExit: cfg.IdleExit, Wait: cfg.Wait, Version: cfg.Version, Logger: cfg.Logger,
	})
}
