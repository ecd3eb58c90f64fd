package crishim

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/metrics"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// metricsPath is where metrics are served.
const metricsPath = "/metrics"

// MetricsConfig says where metrics for Prometheus are served.
type MetricsConfig struct {
	Address string `toml:"address" json:"address,omitempty"` // "": nowhere, and nothing is counted
}

// unixPath is the path of a socket; false when metrics are served over TCP, or not at all.
func (c MetricsConfig) unixPath() (string, bool) { return strings.CutPrefix(c.Address, "unix://") }

func (c MetricsConfig) validate(v *validator) {
	if path, ok := c.unixPath(); ok {
		if v.absolute("metrics.address", path); len(path) > maxSocketPath {
			v.bad("metrics.address", c.Address, "a path that fits into a socket's address")
		}
		return
	}
	if addr, err := netip.ParseAddrPort(c.Address); c.Address != "" && (err != nil || addr.Port() == 0 || addr.Addr().IsMulticast()) {
		v.bad("metrics.address", c.Address, `an IP address and a port like "127.0.0.1:1338", "unix:///PATH", or "" for none`)
	}
}

func (c MetricsConfig) listen() (net.Listener, error) {
	if path, ok := c.unixPath(); ok {
		return listen(path)
	}
	return net.Listen("tcp", c.Address)
}

// newMetrics comes before the parts that are counted. What it looks up are the parts, later.
func (p *parts) newMetrics(version string, layout paths.Layout) *metrics.Metrics {
	if p.config.Metrics.Address == "" {
		return nil
	}
	return metrics.New(version, func() metrics.State { return p.look(layout) })
}

func (p *parts) look(layout paths.Layout) metrics.State {
	s := metrics.State{
		Sandboxes:  map[string]int{string(pod.Ready): 0, string(pod.NotReady): 0},
		Containers: map[string]int{string(pod.Created): 0, string(pod.Running): 0, string(pod.Exited): 0},
	}
	select {
	case <-p.ready:
		s.RuntimeReady = p.health.last() == nil
	default: // no call is answered yet
	}
	s.NetworkReady = p.network.Ready() == nil
	for _, sandbox := range p.pods.Sandboxes() {
		s.Sandboxes[string(sandbox.State)]++
	}
	for _, c := range p.pods.Containers() {
		s.Containers[string(c.State)]++
	}
	for _, o := range p.pods.Operations() {
		s.Operations = append(s.Operations, metrics.Operation(o))
	}
	s.Images, s.ImageBytes, s.DownloadedBytes = len(p.images.store.Images()), p.images.store.Usage().Bytes, p.images.store.Downloaded()
	if aside, err := os.ReadDir(layout.Quarantine()); err == nil {
		s.Quarantined = len(aside)
	}
	return s
}

// serveMetrics serves until ctx ends. A port that somebody else has is not worth a node: it is tried again.
func (p *parts) serveMetrics(ctx context.Context) error {
	if p.metrics == nil {
		return nil
	}
	const again = 10 * time.Second
	for ctx.Err() == nil {
		l, err := p.config.Metrics.listen()
		if err == nil {
			err = p.serveMetricsOn(ctx, l)
		}
		if err != nil {
			p.logger.Error("serve metrics", "address", p.config.Metrics.Address, "again in", again, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
	return nil
}

func (p *parts) serveMetricsOn(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET "+metricsPath, p.metrics.Handler(p.logger))
	const patience = 10 * time.Second
	s := &http.Server{Handler: mux, ReadTimeout: patience, WriteTimeout: 2 * patience, IdleTimeout: 6 * patience, MaxHeaderBytes: 16 << 10}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	p.logger.Info("serving metrics", "address", p.config.Metrics.Address)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	_ = s.Close()
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
