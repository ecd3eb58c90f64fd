package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Kind is what a URL is for.
type Kind string

// The kinds of URLs, as they stand in them.
const (
	Exec        Kind = "exec"
	Attach      Kind = "attach"
	PortForward Kind = "portforward"
)

// Request is what a URL was handed out for. Its fields were validated.
type Request struct {
	Kind                       Kind
	ID                         string // of a container, or of a sandbox
	Cmd                        []string
	Stdin, Stdout, Stderr, TTY bool
	Ports                      []int32 // for WebSocket without a tunnel, whose streams name no port
}

// Runtime does inside of containers and pods what a client asks for.
type Runtime interface {
	// ExecStream runs a command and returns its exit code. When ctx ends, so does the command.
	ExecStream(ctx context.Context, e pod.ExecSpec, s pod.Streams) (int32, error)
	// Attach returns when the container or ctx ends; a client that does not read is left with pod.ErrTooSlow.
	Attach(ctx context.Context, id pod.ID, s pod.Streams) error
	// Dial connects to a port of a pod's own loopback.
	Dial(ctx context.Context, sandbox pod.ID, port int32) (net.Conn, error)
}

// Options are the parts of a Server.
type Options struct {
	Listener net.Listener
	TLS      *tls.Config   // nil: plain HTTP
	Idle     time.Duration // after so long without a byte a session ends
	Runtime  Runtime
	Logger   *slog.Logger
	Now      func() time.Time
}

// Server hands out URLs and serves them.
type Server struct {
	Options
	tokens   *tokens
	listener *listener
	http     *http.Server
	work     sync.WaitGroup // sessions
}

const (
	headerLimit = 10 * time.Second // to send a request
	maxHeader   = 64 << 10
	// creationLimit is how long a client may take from the upgrade to its last stream.
	creationLimit = 30 * time.Second
)

// New checks the parts and starts nothing.
func New(o Options) (*Server, error) {
	if o.Listener == nil || o.Runtime == nil || o.Logger == nil || o.Now == nil || o.Idle <= 0 {
		return nil, fmt.Errorf("streaming server: a part is missing: %w", errdefs.ErrInvalidArgument)
	}
	s := &Server{Options: o, tokens: newTokens(o.Now), listener: &listener{Listener: o.Listener, open: map[*conn]bool{}}}
	s.http = &http.Server{
		Handler: s, TLSConfig: o.TLS, ReadHeaderTimeout: headerLimit, IdleTimeout: creationLimit, MaxHeaderBytes: maxHeader,
		ConnContext: withConn, ConnState: noteState,
		ErrorLog:     slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/2 cannot be upgraded
	}
	quietLibraries(o.Logger)
	return s, nil
}

// URL hands out a URL for r. It is good for one use within a minute.
func (s *Server) URL(r Request) (string, error) {
	token, err := s.tokens.add(r)
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "http", Host: s.Listener.Addr().String(), Path: "/" + string(r.Kind) + "/" + token}
	if s.TLS != nil {
		u.Scheme = "https"
	}
	return u.String(), nil
}

// Close closes the listener of a server that is not run. After Run it does nothing.
func (s *Server) Close() error {
	if err := s.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Run serves until ctx ends; then it ends all sessions, waits for them and returns nil. It closes the listener.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() {
		if s.TLS != nil {
			ended <- s.http.ServeTLS(s.listener, "", "")
		} else {
			ended <- s.http.Serve(s.listener)
		}
	}()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = s.http.Close()
		err = <-ended
	}
	s.listener.closeAll()
	s.work.Wait()
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve streams: %w", err)
	}
	return nil
}

// ServeHTTP serves one URL. Neither Host nor Origin are looked at: a kubelet that stands between passes on those
// of its own client. What a web page would need is a token.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.Error(w, "want GET or POST", http.StatusMethodNotAllowed)
		return
	}
	kind, token, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	req, ok := s.tokens.take(Kind(kind), token)
	if !ok {
		http.NotFound(w, r)
		return
	}
	s.work.Add(1)
	defer s.work.Done()
	p := &session{s: s, r: req, conn: requestConn(r), ctx: r.Context()}
	defer p.end()
	begin := time.Now()
	p.serve(w, r)
	s.Logger.Debug("stream", "kind", req.Kind, "id", req.ID, "took", time.Since(begin), "err", p.err)
}
