package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	"k8s.io/utils/exec"

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

// end ends the connection, if it was upgraded, and all that waits for it.
func (p *session) end() {
	if p.conn.upgraded.Load() {
		_ = p.conn.Close()
	}
	p.work.Wait()
}

func (p *session) serve(w http.ResponseWriter, r *http.Request) {
	o := &remotecommand.Options{Stdin: p.r.Stdin, Stdout: p.r.Stdout, Stderr: p.r.Stderr, TTY: p.r.TTY}
	protocols := remotecommand.SupportedStreamingProtocols
	switch {
	case p.r.Kind == PortForward && wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		p.serveTunnel(w, r)
	case p.r.Kind == PortForward:
		p.servePorts(w, r)
	case wsstream.IsWebSocketRequestWithStreamCloseProtocol(r):
		p.serveV5(w, r)
	case p.r.Kind == Exec:
		remotecommand.ServeExec(w, r, p, "", "", p.r.ID, p.r.Cmd, o, p.s.Idle, creationLimit, protocols)
	default:
		remotecommand.ServeAttach(w, r, p, "", "", p.r.ID, o, p.s.Idle, creationLimit, protocols)
	}
}

func (p *session) servePorts(w http.ResponseWriter, r *http.Request) {
	o := &portforward.V4Options{Ports: p.r.Ports}
	portforward.ServePortForward(w, r, forwarder{p, !wsstream.IsWebSocketRequest(r)}, p.r.ID, "", o, p.s.Idle, creationLimit, portforward.SupportedProtocols)
}

// ExecInContainer implements remotecommand.Executor.
func (p *session) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, stderr io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return p.run(in, out, stderr, resize)
}

// AttachContainer implements remotecommand.Attacher.
func (p *session) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, stderr io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return p.run(in, out, stderr, resize)
}

// run does what the client asked for, on its streams. An exit code other than 0 is an exec.ExitError.
func (p *session) run(in io.Reader, out, stderr io.Writer, resize <-chan remotecommand.TerminalSize) error {
	s := pod.Streams{TTY: p.r.TTY, Go: p.work.Go}
	// Which of them there are says the request, not whether the library made a stream.
	if p.r.Stdin {
		s.In = in
	}
	if p.r.Stdout {
		s.Out = out
	}
	if p.r.Stderr {
		s.Err = stderr
	}
	if resize != nil {
		sizes := make(chan pod.Size)
		s.Resize = sizes
		p.work.Go(func() { p.translate(resize, sizes) })
	}
	if p.r.Kind == Attach {
		p.err = p.s.Runtime.Attach(p.ctx, pod.ID(p.r.ID), s)
		if errors.Is(p.err, pod.ErrTooSlow) {
			_ = p.conn.Close() // it would not read that either
		}
		return p.err
	}
	var code int32
	code, p.err = p.s.Runtime.ExecStream(p.ctx, pod.ExecSpec{ID: pod.ID(p.r.ID), Cmd: p.r.Cmd}, s)
	if p.err == nil && code != 0 {
		return exec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: int(code)}
	}
	return p.err
}

// translate hands on the sizes of the client's terminal; the last one wins.
func (p *session) translate(from <-chan remotecommand.TerminalSize, to chan<- pod.Size) {
	for {
		var size remotecommand.TerminalSize
		var ok bool
		select {
		case size, ok = <-from:
		case <-p.ctx.Done():
		}
		if !ok {
			return
		}
		select {
		case to <- pod.Size{Width: size.Width, Height: size.Height}:
		case <-p.ctx.Done():
			return
		}
	}
}
