package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// forwarder connects a client's stream to a port of a pod.
type forwarder struct {
	p *session
	// halfClose says that closing the stream ends our direction only, as in SPDY.
	halfClose bool
}

// PortForward implements portforward.PortForwarder. Its context is none: the library's never ends.
func (f forwarder) PortForward(_ context.Context, _, _ string, port int32, client io.ReadWriteCloser) error {
	f.p.work.Add(1)
	defer f.p.work.Done()
	if port < 1 || port > 1<<16-1 {
		return fmt.Errorf("port %d: want a number from 1 to 65535", port)
	}
	ctx := f.p.ctx
	raw, err := f.p.s.Runtime.Dial(ctx, pod.ID(f.p.r.ID), port)
	if err != nil {
		return err
	}
	server, ok := raw.(*net.TCPConn)
	if !ok {
		return errors.Join(fmt.Errorf("port %d: got a %T", port, raw), raw.Close())
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	return f.splice(client, server)
}

// splice copies both ways, and hands on the end of each. When one way fails the other ends, too.
func (f forwarder) splice(client io.ReadWriteCloser, server *net.TCPConn) error {
	var up sync.WaitGroup
	var upErr error
	up.Go(func() {
		if _, upErr = io.Copy(server, client); upErr == nil {
			upErr = server.CloseWrite()
		}
		if upErr != nil {
			_ = server.Close()
		}
	})
	_, err := io.Copy(client, server)
	if err == nil && f.halfClose {
		err = client.Close() // the client may still have something to say
	} else {
		_ = server.Close()
		release(client)
	}
	up.Wait()
	return errors.Join(err, upErr)
}

// release makes a read of the client's stream return. Closing a stream of SPDY does not.
func release(client io.Closer) {
	if s, ok := client.(interface{ Reset() error }); ok {
		_ = s.Reset()
		return
	}
	_ = client.Close()
}
