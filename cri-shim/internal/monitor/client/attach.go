package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Attach gives s what a container writes from now on, and the container what comes from s. It returns when the
// container ends, or ctx, or the input, as containerd does: a client leaves by its detach keys in that way. Only
// without a terminal and with stdin_once the end of the input is the container's, and its output goes on. A client that lags behind by more than maxBacklog is left with ErrTooSlow.
func (c *Client) Attach(ctx context.Context, id pod.ID, s pod.Streams) error {
	r := &api.AttachSession{Id: string(id), Stdin: s.In != nil, Stdout: s.Out != nil, Stderr: s.Err != nil}
	p, err := pipes(false, r.Stdout, r.Stderr)
	if err != nil {
		return err
	}
	defer closePipes(p)
	ses, input, err := c.open(ctx, &api.SessionRequest{What: &api.SessionRequest_Attach{Attach: r}}, far(p)...)
	if err != nil {
		return err
	}
	defer ses.close()
	stop := make(chan struct{})
	defer close(stop)
	if input != nil {
		defer input.Close()
		s.Go(func() {
			copyAll(input, s.In)
			if !s.TTY { // a terminal may still be resized
				_ = input.Close()
			}
			_ = ses.conn.Send(&api.SessionUpdate{StdinEnded: true})
		})
		if s.TTY && s.Resize != nil {
			s.Go(func() { resize(input, s.Resize, stop) })
		}
	}
	buffers := []*buffer{follow(s, p[1].near, s.Out), follow(s, p[2].near, s.Err)}
	ended, err := ses.ended(ctx)
	for _, b := range buffers {
		if err == nil {
			err = b.wait(ctx)
		}
	}
	if err == nil && ended.Dropped {
		err = pod.ErrTooSlow
	}
	if err != nil {
		err = fmt.Errorf("attach to container %s: %w", id, err)
	}
	return err
}

// maxBacklog is how much output a client may lag behind, in bytes. It is held only while it does.
const maxBacklog = 8 << 20

// buffer stands between a container that must not wait and a client that may be slow.
type buffer struct {
	mu     sync.Mutex
	more   *sync.Cond
	chunks [][]byte // guarded by mu
	size   int      // guarded by mu; with the chunk that is being written
	ended  bool     // guarded by mu; nothing is added any more
	err    error    // guarded by mu

	finish func()        // closes done, once
	done   chan struct{} // all is written, or given up
}

// follow copies from to to through a buffer.
func follow(s pod.Streams, from *os.File, to io.Writer) *buffer {
	b := &buffer{done: make(chan struct{})}
	b.more = sync.NewCond(&b.mu)
	b.finish = sync.OnceFunc(func() { close(b.done) })
	if from == nil {
		b.finish()
		return b
	}
	s.Go(func() { b.fill(from) })
	s.Go(func() { b.empty(to) })
	return b
}

func (b *buffer) fill(from *os.File) {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if !b.add(buf[:n], err != nil) {
			_ = from.Close() // the monitor stops giving
			return
		}
	}
}

// add says whether there may be more.
func (b *buffer) add(data []byte, last bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(data) > 0 && b.err == nil {
		b.chunks = append(b.chunks, bytes.Clone(data))
		b.size += len(data)
	}
	if b.size > maxBacklog {
		b.fail(pod.ErrTooSlow)
	}
	b.ended = b.ended || last
	b.more.Signal()
	return !b.ended
}

// fail gives up; b.mu is held.
func (b *buffer) fail(err error) {
	if b.err == nil {
		b.err, b.ended, b.chunks = err, true, nil
		b.finish()
	}
}

func (b *buffer) empty(to io.Writer) {
	defer b.finish()
	for {
		data := b.next()
		if data == nil {
			return
		}
		_, err := to.Write(data)
		b.mu.Lock()
		b.size -= len(data)
		if err != nil {
			b.fail(err)
		}
		b.mu.Unlock()
	}
}

// next waits for a chunk; nil is the end.
func (b *buffer) next() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.chunks) == 0 && !b.ended {
		b.more.Wait()
	}
	if len(b.chunks) == 0 {
		return nil
	}
	data := b.chunks[0]
	b.chunks = b.chunks[1:]
	return data
}

// wait waits for the end.
func (b *buffer) wait(ctx context.Context) error {
	select {
	case <-b.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}
