package stream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// session is one client with its request.
type session struct {
	s    *Server
	r    Request
	conn *conn
	ctx  context.Context // ends with the connection
	work sync.WaitGroup  // what waits for the client
	err  error           // for the log
}

// lingerLimit is how long a client may take to read what was sent last.
const lingerLimit = 2 * time.Second

// end ends the connection, if it was upgraded, and all that waits for it. What the client still sends is read and
// dropped until it closes: otherwise the kernel would reset the connection, and the status could be lost.
func (p *session) end() {
	if p.conn.upgraded.Load() {
		p.conn.linger(lingerLimit)
	}
	p.work.Wait()
}

func (p *session) serve(w http.ResponseWriter, r *http.Request) {
	ws := wsstream.IsWebSocketRequest(r)
	switch {
	case p.r.Kind == PortForward && wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		p.serveTunnel(w, r)
	case p.r.Kind == PortForward && ws:
		o := &portforward.V4Options{Ports: p.r.Ports}
		portforward.ServePortForward(w, r, forwarder{p, false}, p.r.ID, "", o, p.s.Idle, creationLimit, nil)
	case p.r.Kind == PortForward:
		p.serveSPDYPorts(w, r)
	case ws:
		p.serveWebSocket(w, r)
	default:
		p.serveSPDY(w, r)
	}
}

// run does what the client asked for, on its streams. An exit code other than 0 is an exitError.
func (p *session) run(in io.Reader, out, stderr io.Writer, sizes <-chan pod.Size) error {
	s := pod.Streams{In: in, Out: out, Err: stderr, TTY: p.r.TTY, Resize: sizes, Go: p.work.Go}
	if p.r.Kind == Attach {
		p.err = p.s.Runtime.Attach(p.ctx, pod.ID(p.r.ID), s)
		if errors.Is(p.err, pod.ErrTooSlow) {
			p.conn.lost() // it would not read that either
		}
		return p.err
	}
	var code int32
	code, p.err = p.s.Runtime.ExecStream(p.ctx, pod.ExecSpec{ID: pod.ID(p.r.ID), Cmd: p.r.Cmd}, s)
	if p.err == nil && code != 0 {
		return exitError(code)
	}
	return p.err
}

// maxSize is how long one message with a size may be; it is far shorter.
const maxSize = 4 << 10

// sizes reads what the client says of its terminal's size.
func (p *session) sizes(from io.Reader) chan pod.Size {
	to := make(chan pod.Size)
	p.work.Go(func() {
		in := &io.LimitedReader{R: from} // a decoder collects what has no end
		for d := json.NewDecoder(in); ; {
			in.N = maxSize
			var size remotecommand.TerminalSize
			if err := d.Decode(&size); err != nil {
				return
			}
			select {
			case to <- pod.Size{Width: size.Width, Height: size.Height}:
			case <-p.ctx.Done():
				return
			}
		}
	})
	return to
}
