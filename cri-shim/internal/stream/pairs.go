package stream

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// maxPairs is how many connections a client may have through one session at a time.
const maxPairs = 1000

// serveSPDYPorts speaks portforward.k8s.io over SPDY/3.1: each connection is a pair of streams, one for data and
// one for an error.
func (p *session) serveSPDYPorts(w http.ResponseWriter, r *http.Request) {
	if _, p.err = httpstream.Handshake(r, w, portforward.SupportedProtocols); p.err != nil {
		return // it has answered
	}
	x := &pairs{p: p, open: map[string]*pair{}}
	x.conn = spdy.NewResponseUpgrader().UpgradeResponse(w, r, x.add)
	if x.conn == nil { // it has answered
		p.err = errors.New("upgrade to SPDY failed")
		return
	}
	defer func() { _ = x.conn.Close() }()
	x.conn.SetIdleTimeout(p.s.Idle)
	select {
	case <-x.conn.CloseChan():
	case <-p.ctx.Done():
	}
}

// pairs are the connections of one client. The library's own wait for streams that will not come, and hold
// goroutines for streams that nobody takes.
type pairs struct {
	p    *session
	conn httpstream.Connection

	mu   sync.Mutex
	open map[string]*pair // guarded by mu; by request
}

type pair struct {
	data, errs httpstream.Stream
	replied    []<-chan struct{}
}

// add takes a stream; an error refuses it.
func (x *pairs) add(s httpstream.Stream, replied <-chan struct{}) error {
	port, err := strconv.ParseUint(s.Headers().Get(portforward.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("port %.40q: want a number from 1 to 65535", s.Headers().Get(portforward.PortHeader))
	}
	kind := s.Headers().Get(portforward.StreamType)
	id := s.Headers().Get(portforward.PortForwardRequestIDHeader)
	if id == "" {
		return errors.New("a stream without requestID, which clients send since Kubernetes 1.2")
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	q := x.open[id]
	if q == nil {
		q = &pair{}
	}
	switch {
	case kind == portforward.StreamTypeData && q.data == nil:
		q.data = s
	case kind == portforward.StreamTypeError && q.errs == nil:
		q.errs = s
	default:
		return fmt.Errorf("stream %.40q: want one %q and one %q", kind, portforward.StreamTypeData, portforward.StreamTypeError)
	}
	if x.open[id] == nil && len(x.open) >= maxPairs {
		return fmt.Errorf("%d connections are open", maxPairs)
	}
	x.open[id] = q
	q.replied = append(q.replied, replied)
	if q.data != nil && q.errs != nil {
		x.p.work.Go(func() { x.forward(id, q, int32(port)) })
	}
	return nil
}

// forward serves one connection. Its failure is its own.
func (x *pairs) forward(id string, q *pair, port int32) {
	defer func() {
		x.mu.Lock()
		delete(x.open, id)
		x.mu.Unlock()
		x.conn.RemoveStreams(q.data, q.errs)
	}()
	for _, replied := range q.replied { // see streamSet.wait
		select {
		case <-replied:
		case <-x.p.ctx.Done():
		}
	}
	if x.p.ctx.Err() != nil {
		return
	}
	err := forwarder{x.p, true}.forward(port, q.data)
	if err != nil {
		_, _ = fmt.Fprintf(q.errs, "forward port %d of pod %s: %v", port, x.p.r.ID, err) // it may have left
		_ = q.data.Reset()
		_ = q.errs.Reset()
		return
	}
	_ = q.data.Close()
	_ = q.errs.Close()
}
