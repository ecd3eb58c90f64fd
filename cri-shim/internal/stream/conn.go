package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// conn is a client's connection. The server of net/http lets go of one that was upgraded (http.Hijacker), and the streams of SPDY
// and WebSocket cannot tell a client that left from an end of its input: so we look ourselves. As soon as a read
// fails, the context of the connection's requests ends, and what writes to it fails.
type conn struct {
	net.Conn
	ctx      context.Context
	lost     func()
	upgraded atomic.Bool
}

// Read reads, and notices the end.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // net/http interrupts its own reads
		c.lost()
	}
	return n, err
}

// Write writes, and notices the end.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.lost()
	}
	return n, err
}

// Close closes the connection. One that was upgraded is closed by linger.
func (c *conn) Close() error {
	if !c.upgraded.Load() {
		c.lost()
	}
	return nil
}

// linger says that we have nothing more to say, waits until the client has closed, but not for long, and closes.
func (c *conn) linger(limit time.Duration) {
	if tcp, ok := c.Conn.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_ = tcp.SetReadDeadline(time.Now().Add(limit))
		_, _ = io.Copy(io.Discard, tcp) // whoever else reads, the end is the same
	}
	c.lost()
}

// listener knows all connections that are open.
type listener struct {
	net.Listener
	mu   sync.Mutex
	open map[*conn]bool // guarded by mu
}

// Accept waits for the next client.
func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &conn{Conn: raw, ctx: ctx}
	c.lost = sync.OnceFunc(func() {
		cancel()
		_ = raw.Close()
		l.mu.Lock()
		delete(l.open, c)
		l.mu.Unlock()
	})
	l.mu.Lock()
	l.open[c] = true
	l.mu.Unlock()
	return c, nil
}

// closeAll ends all connections, those too that net/http has let go of.
func (l *listener) closeAll() {
	l.mu.Lock()
	all := make([]*conn, 0, len(l.open))
	for c := range l.open {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		c.lost()
	}
}

// connOf finds ours below what net/http uses.
func connOf(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	ours, _ := c.(*conn)
	return ours
}

type connKey struct{}

func withConn(_ context.Context, c net.Conn) context.Context {
	ours := connOf(c)
	return context.WithValue(ours.ctx, connKey{}, ours)
}

func noteState(c net.Conn, state http.ConnState) {
	if state == http.StateHijacked {
		connOf(c).upgraded.Store(true)
	}
}

func requestConn(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return c
}
