package stream

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"testing"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// control is a control frame of SPDY/3.1 whose header says that its payload has length bytes.
func control(kind uint16, length uint32, payload []byte) []byte {
	b := []byte{0x80, 3}
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint32(b, length)
	return append(b, payload...)
}

// manyHeaders is the payload of a SYN_STREAM whose header block says that it holds count headers, and holds size zero
// bytes, compressed.
func manyHeaders(t *testing.T, count uint32, size int) []byte {
	t.Helper()
	var block bytes.Buffer
	z, err := zlib.NewWriterLevel(&block, zlib.BestCompression) // without the dictionary of SPDY, which a reader takes, too
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write(binary.BigEndian.AppendUint32(nil, count))        // a buffer takes all
	_, _ = z.Write(binary.BigEndian.AppendUint32(nil, uint32(size))) //nolint:gosec // it fits
	_, _ = z.Write(make([]byte, size))
	_ = z.Flush()
	return append([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, block.Bytes()...)
}

// TestHugeFrames: a client sends frames that say that they are huge, or that are when they are unpacked. Nothing
// stays of it when the client has gone, and the memory that it took is bounded (CVE-2026-35469).
func TestHugeFrames(t *testing.T) {
	const settings, synStream = 4, 1
	const most = 64 << 20
	headers := func(payload []byte) []byte { return control(synStream, uint32(len(payload)), payload) } //nolint:gosec // it fits
	w := newWorld(t)
	goroutines := runtime.NumGoroutine() + 2 // the server's own begin with the first client
	for name, frame := range map[string][]byte{
		"a number of settings":        control(settings, 4+8, binary.BigEndian.AppendUint32(nil, 1<<32-1)),
		"the length of settings":      control(settings, 1<<24-1, binary.BigEndian.AppendUint32(nil, 1<<21)),
		"the length of headers":       control(synStream, 1<<24-1, make([]byte, 10)),
		"headers that are compressed": headers(manyHeaders(t, 1, 128<<20)),
		"a number of headers":         headers(manyHeaders(t, 1<<31, 1<<10)),
	} {
		var before, after runtime.MemStats
		raw := w.upgrade(Request{Kind: Exec, ID: "a", Cmd: []string{"0"}, Stdin: true, Stdout: true}, remotecommand.StreamProtocolV4Name)
		runtime.ReadMemStats(&before)
		if _, err := raw.Write(frame); err != nil {
			t.Logf("%s: %v", name, err) // it has hung up
		}
		_ = raw.SetReadDeadline(time.Now().Add(time.Second)) // what waits for more of the frame says nothing
		if _, err := io.Copy(io.Discard, raw); err != nil {
			t.Logf("%s: %v", name, err)
		}
		_ = raw.Close()
		w.quiet(goroutines)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > most {
			t.Errorf("%s takes %d bytes", name, got)
		}
	}
}

// TestManyConnections: a client opens more connections through one session than it may have, half of them never
// complete. Those beyond the limit are refused and the others are not.
func TestManyConnections(t *testing.T) {
	w := newWorld(t)
	_, c := w.spdy(Request{Kind: PortForward, ID: "p"}, "portforward.k8s.io")
	for i := range maxPairs {
		if _, err := c.CreateStream(http.Header{"Streamtype": {"error"}, "Port": {"80"}, "Requestid": {strconv.Itoa(i)}}); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if _, err := c.CreateStream(http.Header{"Streamtype": {"error"}, "Port": {"80"}, "Requestid": {"more"}}); err == nil {
		t.Error("one too many is taken")
	}
	_ = c.Close()
}

// TestStreamsThatNobodyAsked: a client opens streams that are not its request's, or those twice; they are refused.
func TestStreamsThatNobodyAsked(t *testing.T) {
	w := newWorld(t)
	_, c := w.spdy(Request{Kind: Exec, ID: "a", Cmd: []string{"0"}, Stdin: true, Stdout: true}, remotecommand.StreamProtocolV4Name)
	w.stream(c, "streamType", "stdin")
	for _, kind := range []string{"stdin", "stderr", "resize", "data", ""} {
		if _, err := c.CreateStream(http.Header{"Streamtype": {kind}}); err == nil {
			t.Errorf("stream %q is taken", kind)
		}
	}
}

// TestConnectionsTellTheirEnd: the context of a connection ends when a read or a write fails. That of net/http lasts, by
// its word, until the handler of an upgraded connection returns.
func TestConnectionsTellTheirEnd(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	l := &listener{Listener: tcp, open: map[*conn]bool{}}
	for name, notice := range map[string]func(net.Conn) (int, error){
		"read": func(c net.Conn) (int, error) { return c.Read(make([]byte, 1)) },
		"write": func(c net.Conn) (n int, err error) {
			for err == nil { // until the kernel knows that nobody is there
				n, err = c.Write(make([]byte, 1<<10))
			}
			return n, err
		},
	} {
		client, err := net.Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = client.Close()
		if _, err := notice(c); err == nil || connOf(c).ctx.Err() == nil || len(l.open) != 0 {
			t.Errorf("%s: %v; the context: %v; %d are open", name, err, connOf(c).ctx.Err(), len(l.open))
		}
	}
}

// TestBrowsersLearnNothing: a page of another site gets no permission to read an answer, with a token or without.
func TestBrowsersLearnNothing(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/exec/guess", w.url(Request{Kind: Exec, ID: "a", Cmd: []string{"0"}, Stdout: true}).Path} {
		for _, method := range []string{http.MethodOptions, http.MethodGet} {
			r, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.Listener.Addr().String()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = "rebound.example"
			r.Header.Set("Origin", "http://evil.example")
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode < http.StatusBadRequest || resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s: %d, %v", method, path, resp.StatusCode, resp.Header)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// endless begins a text that never ends.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	const most = 64 << 20
	if e.read >= most {
		return 0, io.EOF
	}
	for i := range b {
		b[i] = 'x'
	}
	if e.read == 0 {
		copy(b, `{"Width":80,"Height":24}{"a":"`)
	}
	e.read += len(b)
	return len(b), nil
}

// TestEndlessSize: what a client says of its terminal is not collected without a limit.
func TestEndlessSize(t *testing.T) {
	p := &session{ctx: t.Context()}
	var e endless
	if got := <-p.sizes(&e); got != (pod.Size{Width: 80, Height: 24}) {
		t.Errorf("got %+v", got)
	}
	p.work.Wait()
	if e.read > 64<<10 {
		t.Errorf("%d bytes were read", e.read)
	}
}
