package stream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

// serveTunnel serves SPDY inside of a WebSocket (SPDY/3.1+portforward.k8s.io, KEP-4006), which is how current
// clients forward ports over WebSocket. What is inside is served like a SPDY client.
func (p *session) serveTunnel(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{
		Subprotocols:     []string{portforward.WebsocketsSPDYTunnelingPortForwardV1},
		HandshakeTimeout: headerLimit,
		CheckOrigin:      func(*http.Request) bool { return true }, // see ServeHTTP
	}
	offered := websocket.Subprotocols(r)
	ws, err := up.Upgrade(w, r, nil)
	if err != nil { // it has answered
		p.err = fmt.Errorf("upgrade to WebSocket, offered %q: %w", offered, err)
		return
	}
	defer func() { _ = ws.Close() }()
	if ws.Subprotocol() == "" {
		p.err = fmt.Errorf("none of the protocols %q is known", offered)
		return
	}
	inner := r.Clone(r.Context())
	for name := range inner.Header {
		if strings.HasPrefix(name, "Sec-Websocket-") {
			inner.Header.Del(name)
		}
	}
	inner.Header.Set("Connection", "Upgrade")
	inner.Header.Set("Upgrade", "SPDY/3.1")
	inner.Header.Set("X-Stream-Protocol-Version", portforward.PortForwardV1Name)
	p.serveSPDYPorts(&hijacked{header: http.Header{}, c: &tunnel{Conn: ws.NetConn(), ws: ws}}, inner)
}

// hijacked is the response to a request that came through a tunnel: there is nothing to answer any more.
type hijacked struct {
	header http.Header
	c      net.Conn
}

// Header implements http.ResponseWriter.
func (h *hijacked) Header() http.Header { return h.header }

// Write implements http.ResponseWriter.
func (h *hijacked) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements http.ResponseWriter.
func (h *hijacked) WriteHeader(int) {}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.c, bufio.NewReadWriter(bufio.NewReader(h.c), bufio.NewWriter(h.c)), nil
}

// tunnel is the byte stream in the binary messages of a WebSocket.
type tunnel struct {
	net.Conn // for addresses and deadlines
	ws       *websocket.Conn
	message  io.Reader // that is being read; nil between messages
}

// Read implements net.Conn.
func (t *tunnel) Read(b []byte) (int, error) {
	for {
		if t.message == nil {
			kind, m, err := t.ws.NextReader()
			if err != nil {
				if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					err = io.EOF
				}
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("tunnel: want binary messages")
			}
			t.message = m
		}
		n, err := t.message.Read(b)
		if errors.Is(err, io.EOF) {
			t.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (t *tunnel) Write(b []byte) (int, error) {
	if err := t.ws.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements net.Conn.
func (t *tunnel) Close() error {
	end := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = t.ws.WriteControl(websocket.CloseMessage, end, time.Now().Add(time.Second)) // it may have left
	return t.ws.Close()
}
