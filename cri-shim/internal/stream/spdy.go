package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// serveSPDY speaks channel.k8s.io to v4.channel.k8s.io over SPDY/3.1.
func (p *session) serveSPDY(w http.ResponseWriter, r *http.Request) {
	protocol, err := httpstream.Handshake(r, w, remotecommand.SupportedStreamingProtocols)
	if err != nil { // it has answered
		p.err = err
		return
	}
	resizes := protocol == remotecommand.StreamProtocolV4Name || protocol == remotecommand.StreamProtocolV3Name
	set := newStreamSet(map[string]bool{
		remotecommand.StreamTypeError: true, remotecommand.StreamTypeStdin: p.r.Stdin, remotecommand.StreamTypeStdout: p.r.Stdout,
		remotecommand.StreamTypeStderr: p.r.Stderr, remotecommand.StreamTypeResize: p.r.TTY && resizes,
	})
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, set.add)
	if conn == nil { // it has answered
		p.err = errors.New("upgrade to SPDY failed")
		return
	}
	defer func() { _ = conn.Close() }()
	conn.SetIdleTimeout(p.s.Idle)
	if p.err = set.wait(p.ctx, conn.CloseChan()); p.err != nil {
		return
	}
	status := set.streams[remotecommand.StreamTypeError]
	// A nil of a type is no nil: only streams that there are go into the interfaces.
	in, out, stderr := io.Reader(nil), io.Writer(nil), io.Writer(nil)
	if s := set.streams[remotecommand.StreamTypeStdin]; s != nil {
		in = s
	}
	if s := set.streams[remotecommand.StreamTypeStdout]; s != nil {
		out = s
	}
	if s := set.streams[remotecommand.StreamTypeStderr]; s != nil {
		stderr = s
	}
	var sizes chan pod.Size
	if s := set.streams[remotecommand.StreamTypeResize]; s != nil {
		sizes = p.sizes(s)
	}
	err = p.run(in, out, stderr, sizes)
	_, _ = status.Write(p.statusOf(err, protocol == remotecommand.StreamProtocolV4Name)) // it may have left
}

// streamSet collects the streams that a client opens. The library's own collector holds a goroutine for each
// stream that nobody waits for, for ever; here one too many is refused.
type streamSet struct {
	mu      sync.Mutex
	wanted  map[string]bool              // guarded by mu; not there yet
	streams map[string]httpstream.Stream // guarded by mu until complete
	replied []<-chan struct{}            // guarded by mu until complete

	complete chan struct{}
}

func newStreamSet(wanted map[string]bool) *streamSet {
	for kind, want := range wanted {
		if !want {
			delete(wanted, kind)
		}
	}
	return &streamSet{wanted: wanted, streams: map[string]httpstream.Stream{}, complete: make(chan struct{})}
}

// add takes a stream; an error refuses it.
func (s *streamSet) add(stream httpstream.Stream, replied <-chan struct{}) error {
	kind := stream.Headers().Get(remotecommand.StreamType)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.wanted[kind] {
		return fmt.Errorf("stream %.40q: not asked for, or there already", kind)
	}
	delete(s.wanted, kind)
	s.streams[kind] = stream
	s.replied = append(s.replied, replied)
	if len(s.wanted) == 0 {
		close(s.complete)
	}
	return nil
}

// wait waits until all streams are there and their replies are sent: before, a write to one waits, and for
// ever when the connection has broken.
func (s *streamSet) wait(ctx context.Context, gone <-chan bool) error {
	late := time.NewTimer(creationLimit)
	defer late.Stop()
	select {
	case <-s.complete:
	case <-ctx.Done():
		return ctx.Err()
	case <-gone: // also when a frame was none: then nobody reads, and sees that the client leaves
		return errors.New("the connection ended before its streams were there")
	case <-late.C:
		return fmt.Errorf("the client has not opened its streams within %s", creationLimit)
	}
	for _, replied := range s.replied {
		select {
		case <-replied:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}
