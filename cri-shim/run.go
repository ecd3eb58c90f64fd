package crishim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/podwright/podwright/cri-shim/internal/paths"
)

// gcLimit bounds CNI GC at the start: until it ends, no sandbox is attached.
const gcLimit = time.Minute

// Options are what is not configuration.
type Options struct {
	Logger  *slog.Logger
	Version string // a semantic version
	Ready   func() // called once, when every call is answered; may be nil
}

// Run is cri-shim: it makes the parts, serves until ctx ends, and returns when nothing of it is at work
// any more. No container is touched by its end. It may be called once in a process.
func Run(ctx context.Context, cfg Config, o Options) (err error) {
	if o.Logger == nil || o.Version == "" {
		return fmt.Errorf("run cri-shim: logger and version are needed: %w", errdefs.ErrInvalidArgument)
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	tune()
	layout := paths.Layout{Root: cfg.Root, State: cfg.State}
	release, err := claim(layout)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	p, err := assemble(ctx, cfg, o, layout)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	l, err := listen(cfg.Socket())
	if err != nil {
		return err
	}
	o.Logger.Info("serving", "socket", cfg.Socket(), "version", o.Version, "root", cfg.Root, "state", cfg.State)
	err = p.run(ctx, l, o.Ready)
	removeCgroup(p.cgroups.Parent)
	o.Logger.Info("ended")
	return err
}

// run serves on l until ctx ends or a part fails. Calls end first; what they use ends after them.
func (p *parts) run(ctx context.Context, l net.Listener, ready func()) error {
	g, serving := errgroup.WithContext(ctx)
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		defer stop()
		return p.server.Serve(serving, l)
	})
	g.Go(func() error { return p.streams.Run(serving) })
	g.Go(func() error { return p.pods.Run(working) })
	g.Go(func() error { return p.network.Run(working) })
	g.Go(func() error { return p.health.run(working) })
	g.Go(func() error { return p.serveMetrics(working) })
	g.Go(func() error {
		select {
		case <-p.pods.Recovered():
			return p.stats.Run(working)
		case <-working.Done():
			return nil
		}
	})
	g.Go(func() error {
		select {
		case <-p.ready:
			p.recovered(working, ready)
			if interval := time.Duration(p.config.CNI.CheckInterval); interval > 0 {
				return p.network.Check(working, interval, p.pods)
			}
		case <-working.Done():
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-p.pods.Recovered():
			return p.plugins(working)
		case <-working.Done():
			return nil
		}
	})
	return g.Wait()
}

// plugins runs NRI. Calls are answered once the plugins are there that are to see every pod.
func (p *parts) plugins(ctx context.Context) error {
	if p.nri == nil {
		close(p.ready)
		return nil
	}
	return p.nri.Run(ctx, p.pods, func() { close(p.ready) })
}

// recovered does what comes after the records were read.
func (p *parts) recovered(ctx context.Context, ready func()) {
	p.images.store.Collect() // the containers hold their layers again
	if ready != nil {
		ready()
	}
	if p.config.CNI.GC {
		ctx, cancel := context.WithTimeout(ctx, gcLimit)
		defer cancel()
		// What could not be given back now is tried again at the next start.
		if err := p.network.GC(ctx, p.pods.Attachments); err != nil {
			p.logger.Warn("give back what belongs to no pod", "err", err)
		}
	}
	debug.FreeOSMemory() // a start reads much that is not needed again
}
