// Package client drives cri-monitor for cri-shim: it implements pod.Runtime over the monitor's socket, and
// starts a monitor when there is none. It owns the connection and, while it lives, the monitor it started.
//
// Crash story: it keeps nothing. A monitor it started runs on without it.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/durable"
)

// Options say how to reach, and how to start, a monitor.
type Options struct {
	Layout   paths.Layout
	Binary   string   // path of cri-monitor
	Args     []string // its arguments
	Logger   *slog.Logger
	Patience time.Duration // how long a new monitor may take until it answers; 0: 10 s
}

// Client implements pod.Runtime.
type Client struct {
	opt Options

	mu   sync.Mutex
	conn *connection // guarded by mu; nil: connect anew
}

// connection is one connection, until it breaks.
type connection struct {
	rpc *ttrpc.Client
	api api.MonitorClient
}

// New starts nothing.
func New(opt Options) *Client {
	if opt.Patience == 0 {
		opt.Patience = 10 * time.Second
	}
	return &Client{opt: opt}
}

// Close ends the connection. The monitor runs on.
func (c *Client) Close() error {
	c.mu.Lock()
	conn := c.conn
	c.conn = nil
	c.mu.Unlock() // closing tells lost, which takes it
	if conn == nil {
		return nil
	}
	return conn.rpc.Close()
}

// Ensure connects, and starts a monitor when none answers.
func (c *Client) Ensure(ctx context.Context) error {
	_, err := c.connect(ctx)
	return err
}

func (c *Client) connect(ctx context.Context) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		return c.conn, nil
	}
	conn, err := c.dial(ctx)
	if err != nil {
		if err := c.launch(ctx); err != nil {
			return nil, fmt.Errorf("start cri-monitor: %w: %w", err, errdefs.ErrUnavailable)
		}
		if conn, err = c.dial(ctx); err != nil {
			return nil, fmt.Errorf("reach cri-monitor: %w: %w", err, errdefs.ErrUnavailable)
		}
	}
	c.conn = conn
	return conn, nil
}

func (c *Client) dial(ctx context.Context) (*connection, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", c.opt.Layout.MonitorSocket())
	if err != nil {
		return nil, err
	}
	conn := &connection{}
	conn.rpc = ttrpc.NewClient(raw, ttrpc.WithOnClose(func() { c.lost(conn) }))
	conn.api = api.NewMonitorClient(conn.rpc)
	return conn, nil
}

func (c *Client) lost(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
}

// launch starts a monitor unless somebody else does, and waits until one answers.
func (c *Client) launch(ctx context.Context) error {
	dir := c.opt.Layout.Monitor()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := durable.Acquire(filepath.Join(dir, "launch.lock"))
	if err != nil {
		return err
	}
	defer lock.Release()
	ctx, cancel := context.WithTimeout(ctx, c.opt.Patience)
	defer cancel()
	if c.answers(ctx) {
		return nil
	}
	ended, err := c.spawn(filepath.Join(dir, "monitor.log"))
	if err != nil {
		return err
	}
	for {
		if c.answers(ctx) {
			return nil
		}
		select {
		case err := <-ended:
			if !c.another() {
				return fmt.Errorf("it ended: %w (see %s)", err, filepath.Join(dir, "monitor.log"))
			}
			ended = nil // that one will answer
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// another says whether a monitor is there, which may be taking over containers, and answers only then.
func (c *Client) another() bool {
	lock, err := durable.TryAcquire(c.opt.Layout.MonitorLock())
	if err != nil {
		return errors.Is(err, durable.ErrLocked)
	}
	_ = lock.Release()
	return false
}

func (c *Client) answers(ctx context.Context) bool {
	conn, err := c.dial(ctx)
	if err != nil {
		return false
	}
	defer conn.rpc.Close()
	_, err = conn.api.Info(ctx, &api.InfoRequest{})
	return err == nil
}

// spawn starts the monitor in a session of its own, so that nothing meant for us reaches it.
func (c *Client) spawn(logPath string) (<-chan error, error) {
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(c.opt.Binary, c.opt.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.opt.Logger.Info("started cri-monitor", "pid", cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(cmd.Wait(), errors.New("cri-monitor exited")) }() // it may outlive us
	return ended, nil
}

// call runs f on a connection, and once more on a new one when the monitor was lost and f may be repeated.
func call[T any](ctx context.Context, c *Client, repeat bool, f func(api.MonitorClient) (T, error)) (T, error) {
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil { // the request would be sent all the same
			var none T
			return none, err
		}
		conn, err := c.connect(ctx)
		if err != nil {
			var none T
			return none, err
		}
		v, err := f(conn.api)
		if !broken(err) {
			return v, fromWire(err)
		}
		c.lost(conn)
		if !repeat || attempt > 0 || ctx.Err() != nil {
			return v, fmt.Errorf("cri-monitor was lost: %w: %w", err, errdefs.ErrUnavailable)
		}
	}
}

func broken(err error) bool {
	return errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, ttrpc.ErrStreamClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// fromWire gives an error its class back; the codes are those of the server.
func fromWire(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	class := map[codes.Code]error{
		codes.DeadlineExceeded: context.DeadlineExceeded, codes.Canceled: context.Canceled, codes.Aborted: pod.ErrStart,
		codes.InvalidArgument: errdefs.ErrInvalidArgument, codes.NotFound: errdefs.ErrNotFound,
		codes.FailedPrecondition: errdefs.ErrFailedPrecondition, codes.Unavailable: errdefs.ErrUnavailable,
	}[st.Code()]
	if class == nil {
		return errors.New(st.Message())
	}
	return remote{st.Message(), class}
}

// remote is an error of the monitor: its text, which names the class already, and its class.
type remote struct {
	text  string
	class error
}

func (e remote) Error() string { return e.text }
func (e remote) Unwrap() error { return e.class }
