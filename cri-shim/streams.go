package crishim

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/monitor/client"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/podnet"
	"github.com/podwright/podwright/cri-shim/internal/stream"
)

// StreamingConfig says where exec, attach and port forwarding are served.
type StreamingConfig struct {
	Address     string   `toml:"address" json:"address"`
	Port        int      `toml:"port" json:"port"` // 0: any free one
	TLSCert     string   `toml:"tls_cert" json:"tlsCert,omitempty"`
	TLSKey      string   `toml:"tls_key" json:"tlsKey,omitempty"`
	IdleTimeout Duration `toml:"idle_timeout" json:"idleTimeout"`
}

func (c StreamingConfig) validate(v *validator) {
	addr, err := netip.ParseAddr(c.Address)
	switch {
	case err != nil || addr.IsUnspecified() || addr.IsMulticast():
		v.bad("streaming.address", c.Address, "an IP address of this host: it stands in the URLs")
	case !addr.IsLoopback() && c.TLSCert == "":
		v.bad("streaming.address", c.Address, "a loopback address, or streaming.tls_cert and streaming.tls_key")
	}
	if c.Port < 0 || c.Port > 1<<16-1 {
		v.bad("streaming.port", strconv.Itoa(c.Port), "a number from 0 (any) to 65535")
	}
	v.absoluteOrEmpty("streaming.tls_cert", c.TLSCert)
	v.absoluteOrEmpty("streaming.tls_key", c.TLSKey)
	if (c.TLSCert == "") != (c.TLSKey == "") {
		v.bad("streaming.tls_key", c.TLSKey, "a file exactly when streaming.tls_cert is one")
	}
	if c.IdleTimeout < Duration(time.Second) {
		v.bad("streaming.idle_timeout", time.Duration(c.IdleTimeout).String(), "1s or more")
	}
}

// newStreams listens already, so that URLs have a port.
func newStreams(c StreamingConfig, runtime stream.Runtime, logger *slog.Logger) (*stream.Server, error) {
	o := stream.Options{Idle: time.Duration(c.IdleTimeout), Runtime: runtime, Logger: logger, Now: time.Now}
	if c.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("streaming.tls_cert: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	}
	var err error
	if o.Listener, err = net.Listen("tcp", net.JoinHostPort(c.Address, strconv.Itoa(c.Port))); err != nil {
		return nil, fmt.Errorf("listen for streams: %w", err)
	}
	return stream.New(o)
}

// streamRuntime implements stream.Runtime.
type streamRuntime struct {
	*client.Client
	pods *pod.Manager
}

// Dial connects to a port of a pod's own loopback; a pod with the host's network has the host's.
func (r streamRuntime) Dial(ctx context.Context, sandbox pod.ID, port int32) (net.Conn, error) {
	netns, err := r.pods.NetworkOf(string(sandbox))
	if err != nil {
		return nil, err
	}
	return podnet.DialLoopback(ctx, netns, port)
}
