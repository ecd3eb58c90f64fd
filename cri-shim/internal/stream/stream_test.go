package stream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/gorilla/websocket"
	"github.com/moby/spdystream"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// echo stands for containers: a command gives back its input, and ends when that ends, or its context.
type echo struct {
	port int // of a server on loopback

	mu      sync.Mutex
	running int // guarded by mu
}

func (e *echo) count(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running += n
}

func (e *echo) ExecStream(ctx context.Context, x pod.ExecSpec, s pod.Streams) (int32, error) {
	e.count(1)
	defer e.count(-1)
	if x.Cmd[0] == "fail" {
		return 0, errors.New("no such command")
	}
	done := make(chan struct{})
	if s.In != nil {
		s.Go(func() {
			defer close(done)
			_, _ = io.Copy(s.Out, s.In)
		})
	}
	select {
	case size := <-s.Resize:
		fmt.Fprintf(s.Out, "size %d %d", size.Width, size.Height)
	case <-done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	code, _ := strconv.Atoi(x.Cmd[0])
	return int32(code), nil
}

func (e *echo) Attach(ctx context.Context, _ pod.ID, s pod.Streams) error {
	e.count(1)
	defer e.count(-1)
	if s.In == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return pod.ErrTooSlow
}

func (e *echo) Dial(ctx context.Context, _ pod.ID, port int32) (net.Conn, error) {
	var d net.Dialer
	if port != 80 {
		return nil, fmt.Errorf("port %d is closed", port)
	}
	return d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(e.port)))
}

// world is a server with its clients.
type world struct {
	*Server
	t    *testing.T
	echo *echo
	now  time.Time
	stop func() error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, echo: &echo{port: upperServer(t)}, now: time.Now()}
	w.Server, err = New(Options{
		Listener: l, Idle: time.Minute, Runtime: w.echo, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	w.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// upperServer reads to the end of its input and only then answers, in capitals.
func upperServer(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				_, _ = c.Write([]byte(strings.ToUpper(string(b))))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

func (w *world) url(r Request) *url.URL {
	w.t.Helper()
	text, err := w.URL(r)
	if err != nil {
		w.t.Fatal(err)
	}
	u, err := url.Parse(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

// upgrade asks for SPDY as a client does.
func (w *world) upgrade(r Request, protocol string) net.Conn {
	w.t.Helper()
	u := w.url(r)
	raw, err := net.Dial("tcp", u.Host)
	if err != nil {
		w.t.Fatal(err)
	}
	fmt.Fprintf(raw, "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\n\r\n", u.Path, u.Host, protocol)
	resp, err := http.ReadResponse(bufio.NewReader(raw), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		w.t.Fatalf("%v, %v", resp, err)
	}
	w.t.Cleanup(func() { _ = raw.Close() })
	return raw
}

func (w *world) spdy(r Request, protocol string) (net.Conn, httpstream.Connection) {
	w.t.Helper()
	raw := w.upgrade(r, protocol)
	c, err := spdy.NewClientConnection(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw, c
}

func (w *world) stream(c httpstream.Connection, headers ...string) httpstream.Stream {
	w.t.Helper()
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	s, err := c.CreateStream(h)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// quiet waits until nothing runs for a client any more.
func (w *world) quiet(goroutines int) {
	w.t.Helper()
	var running, left int
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		w.echo.mu.Lock()
		running = w.echo.running
		w.echo.mu.Unlock()
		if left = runtime.NumGoroutine(); running == 0 && left <= goroutines {
			return
		}
	}
	buf := make([]byte, 1<<20)
	w.t.Errorf("%d sessions, %d goroutines, there were %d:\n%s", running, left, goroutines, buf[:runtime.Stack(buf, true)])
}

func TestTokens(t *testing.T) {
	now := time.Now()
	k := newTokens(func() time.Time { return now })
	first, err := k.add(Request{Kind: Exec, ID: "a"})
	if err != nil || len(first) < 128/6 {
		t.Fatalf("%q has less than 128 bits, %v", first, err)
	}
	if _, ok := k.take(Attach, first); ok {
		t.Error("taken for something else")
	}
	if _, ok := k.take(Exec, first+"x"); ok {
		t.Error("another token is taken")
	}
	if r, ok := k.take(Exec, first); !ok || r.ID != "a" {
		t.Errorf("got %v, %t", r, ok)
	}
	if _, ok := k.take(Exec, first); ok {
		t.Error("taken twice")
	}
	old, _ := k.add(Request{Kind: Exec})
	now = now.Add(tokenLife + time.Nanosecond)
	if _, ok := k.take(Exec, old); ok {
		t.Error("taken too late")
	}
	var all []string
	for range maxPending {
		token, err := k.add(Request{Kind: Exec})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, token)
	}
	if _, err := k.add(Request{Kind: Exec}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("too many: %v", err)
	}
	if _, ok := k.take(Exec, all[0]); !ok {
		t.Error("one too many cost another")
	}
	if _, err := k.add(Request{Kind: Exec}); err != nil {
		t.Errorf("after one was used: %v", err)
	}
	now = now.Add(2 * tokenLife)
	if _, err := k.add(Request{Kind: Exec}); err != nil || len(k.pending) != 1 {
		t.Errorf("%d pending after all expired, %v", len(k.pending), err)
	}
}

func TestPaths(t *testing.T) {
	w := newWorld(t)
	u := w.url(Request{Kind: Exec, ID: "a", Cmd: []string{"0"}, Stdout: true})
	token := strings.TrimPrefix(u.Path, "/exec/")
	for _, path := range []string{
		"/", "/exec/", "/exec", "/attach/" + token, "/portforward/" + token, "/exec/" + token + "/", "/exec/" + token + "/../../attach/" + token,
		"/attach/../exec/" + token, "//exec/" + token, "/exec//" + token,
	} {
		raw, err := net.Dial("tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(raw, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(raw), nil)
		if err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %v, %v", path, resp, err)
		}
		_ = raw.Close()
	}
	resp, err := http.DefaultClient.Do(&http.Request{Method: http.MethodDelete, URL: u})
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	resp, err = http.Get(u.String())
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("no upgrade: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
}

func TestSPDYExec(t *testing.T) {
	w := newWorld(t)
	_, c := w.spdy(Request{Kind: Exec, ID: "a", Cmd: []string{"3"}, Stdin: true, Stdout: true}, remotecommand.StreamProtocolV4Name)
	errs := w.stream(c, "streamType", "error")
	in := w.stream(c, "streamType", "stdin")
	out := w.stream(c, "streamType", "stdout")
	if _, err := in.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	got, err := io.ReadAll(out)
	if err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	status, err := io.ReadAll(errs)
	if err != nil || !strings.Contains(string(status), `"causes":[{"reason":"ExitCode","message":"3"}]`) {
		t.Errorf("status %s, %v", status, err)
	}
}

// dial opens a WebSocket.
func (w *world) dial(r Request, protocol string) *websocket.Conn {
	w.t.Helper()
	u := w.url(r)
	u.Scheme = "ws"
	d := websocket.Dialer{Subprotocols: []string{protocol}}
	c, resp, err := d.Dial(u.String(), http.Header{"Origin": {"https://dashboard.example"}, "Host": {"node.example"}})
	if err != nil {
		w.t.Fatalf("%v: %v", err, resp)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// messages reads all that come, by channel.
func messages(c *websocket.Conn) map[byte]string {
	got := map[byte]string{}
	for {
		_, m, err := c.ReadMessage()
		if err != nil {
			return got
		}
		if len(m) > 0 {
			got[m[0]] += string(m[1:])
		}
	}
}

func TestWebSocketExec(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		protocol, cmd string
		status        string
	}{
		"v5 success": {"v5.channel.k8s.io", "0", `{"status":"Success"}`},
		"v5 code": {"v5.channel.k8s.io", "4", `{"status":"Failure","message":"command terminated with non-zero exit code: exit status 4","reason":"NonZeroExitCode",` +
			`"details":{"causes":[{"reason":"ExitCode","message":"4"}]}}`},
		"v5 error": {"v5.channel.k8s.io", "fail", `{"status":"Failure","message":"exec: no such command","reason":"InternalError","code":500}`},
		"v4 error": {"v4.channel.k8s.io", "fail", `{"status":"Failure","message":"exec: no such command","reason":"InternalError","code":500}`},
	} {
		t.Run(name, func(t *testing.T) {
			ws := w.dial(Request{Kind: Exec, ID: "a", Cmd: []string{c.cmd}, Stdin: true, Stdout: true}, c.protocol)
			want := ""
			if c.cmd != "fail" {
				want = "hello"
				for _, m := range []string{"\x00hel", "\x00lo", "\xff\x00"} {
					if err := ws.WriteMessage(websocket.BinaryMessage, []byte(m)); err != nil {
						t.Fatal(err)
					}
				}
			}
			got := messages(ws)
			if got[stdoutChannel] != want || !sameJSON(got[errorChannel], c.status) {
				t.Errorf("got %q", got)
			}
		})
	}
	ws := w.dial(Request{Kind: Exec, ID: "a", Cmd: []string{"0"}, Stdout: true, TTY: true}, "v5.channel.k8s.io")
	if err := ws.WriteMessage(websocket.BinaryMessage, []byte("\x04"+`{"Width":80,"Height":25}`)); err != nil {
		t.Fatal(err)
	}
	if got := messages(ws); got[stdoutChannel] != "size 80 25" {
		t.Errorf("resize: %q", got)
	}
}

func sameJSON(a, b string) bool {
	var x, y status
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && fmt.Sprint(x.Status, x.Message, x.Reason, x.Code) == fmt.Sprint(y.Status, y.Message, y.Reason, y.Code)
}

// forwardOne sends a text through a port and returns what comes back, and what the error stream says.
func (w *world) forwardOne(c httpstream.Connection, id, port, text string) (string, string) {
	w.t.Helper()
	errs := w.stream(c, "streamType", "error", "port", port, "requestID", id)
	_ = errs.Close()
	data := w.stream(c, "streamType", "data", "port", port, "requestID", id)
	if _, err := data.Write([]byte(text)); err != nil {
		w.t.Fatal(err)
	}
	_ = data.Close() // the server answers upon the end of its input
	got, _ := io.ReadAll(data)
	why, _ := io.ReadAll(errs)
	return string(got), string(why)
}

func TestPortForward(t *testing.T) {
	w := newWorld(t)
	_, plain := w.spdy(Request{Kind: PortForward, ID: "p"}, "portforward.k8s.io")
	ws := w.dial(Request{Kind: PortForward, ID: "p"}, "SPDY/3.1+portforward.k8s.io")
	tunneled, err := spdy.NewClientConnection(&tunnel{Conn: ws.NetConn(), ws: ws})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]httpstream.Connection{"spdy": plain, "tunnel": tunneled} {
		if got, why := w.forwardOne(c, "1", "80", "hello"); got != "HELLO" || why != "" {
			t.Errorf("%s: got %q, %q", name, got, why)
		}
		if got, why := w.forwardOne(c, "2", "81", "hello"); got != "" || !strings.Contains(why, "port 81 is closed") {
			t.Errorf("%s: a closed port: %q, %q", name, got, why)
		}
		if got, why := w.forwardOne(c, "3", "80", "again"); got != "AGAIN" || why != "" {
			t.Errorf("%s: after a closed port: %q, %q", name, got, why)
		}
		for _, port := range []string{"0", "65536", "-1", "x"} {
			if _, err := c.CreateStream(http.Header{"Streamtype": {"data"}, "Port": {port}, "Requestid": {"4"}}); err == nil {
				t.Errorf("%s: port %s is accepted", name, port)
			}
		}
		if _, err := c.CreateStream(http.Header{"Streamtype": {"data"}, "Port": {"80"}}); err == nil {
			t.Errorf("%s: a stream without a request's id is accepted", name)
		}
	}
}

// TestVanish: clients go away at every point, in every protocol; nothing of theirs stays.
func TestVanish(t *testing.T) {
	w := newWorld(t)
	resp, err := http.Get("http://" + w.Listener.Addr().String()) // its goroutines have begun
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	time.Sleep(100 * time.Millisecond)
	before := runtime.NumGoroutine()
	exec := Request{Kind: Exec, ID: "a", Cmd: []string{"0"}, Stdin: true, Stdout: true}
	deaf := Request{Kind: Attach, ID: "a", Stdout: true}
	silent := Request{Kind: Exec, ID: "a", Cmd: []string{"0"}, Stdout: true} // no end of an input ends it
	for range 10 {
		for _, streams := range [][]string{{}, {"error"}, {"error", "stdin", "stdout"}, {"error", "stdin", "stdout", "stdout", "stdin", "resize"}} {
			raw := w.upgrade(exec, remotecommand.StreamProtocolV4Name)
			c, err := spdystream.NewConnection(raw, false)
			if err != nil {
				t.Fatal(err)
			}
			go c.Serve(spdystream.NoOpStreamHandler)
			for _, kind := range streams {
				// One too many is refused, or the session is over; the client's library wants to be asked.
				if s, err := c.CreateStream(http.Header{"Streamtype": {kind}}, nil, false); err == nil {
					go func() { _ = s.WaitTimeout(2 * time.Second) }()
				}
			}
			time.Sleep(5 * time.Millisecond)
			_ = raw.Close()
		}
		for _, r := range []Request{deaf, silent} {
			raw, c := w.spdy(r, remotecommand.StreamProtocolV4Name)
			w.stream(c, "streamType", "error")
			w.stream(c, "streamType", "stdout")
			_ = raw.Close()
		}
		raw, c := w.spdy(Request{Kind: PortForward, ID: "p"}, "portforward.k8s.io")
		for i := range 4 {
			w.stream(c, "streamType", "error", "port", "80", "requestID", strconv.Itoa(i))
			w.stream(c, "streamType", "data", "port", "80", "requestID", strconv.Itoa(i))
		}
		_ = raw.Close()
		for _, protocol := range []string{"v5.channel.k8s.io", "v4.channel.k8s.io"} {
			_ = w.dial(exec, protocol).NetConn().Close()
			_ = w.dial(deaf, protocol).NetConn().Close()
			_ = w.dial(silent, protocol).NetConn().Close()
		}
		_ = w.dial(Request{Kind: PortForward, ID: "p", Ports: []int32{80, 80}}, "v4.channel.k8s.io").NetConn().Close()
		_ = w.dial(Request{Kind: PortForward, ID: "p"}, "SPDY/3.1+portforward.k8s.io").NetConn().Close()
	}
	w.quiet(before)
}

// TestTooSlow: a client that was left behind is cut off.
func TestTooSlow(t *testing.T) {
	w := newWorld(t)
	ws := w.dial(Request{Kind: Attach, ID: "a", Stdin: true, Stdout: true}, "v5.channel.k8s.io")
	if got := messages(ws); got[stdoutChannel] != "" || got[errorChannel] != "" { // whoever does not read would hold up a status
		t.Errorf("got %q", got)
	}
}

// TestStop ends a server with sessions.
func TestStop(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("", func(t *testing.T) {
		w := newWorld(t)
		_, c := w.spdy(Request{Kind: Attach, ID: "a", Stdout: true}, remotecommand.StreamProtocolV4Name)
		w.stream(c, "streamType", "error")
		w.stream(c, "streamType", "stdout")
		_ = w.dial(Request{Kind: Exec, ID: "a", Cmd: []string{"0"}, Stdin: true, Stdout: true}, "v5.channel.k8s.io")
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		if w.echo.running != 0 {
			t.Errorf("%d sessions go on", w.echo.running)
		}
	})
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if now := runtime.NumGoroutine(); now > before {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, there were %d:\n%s", now, before, buf[:runtime.Stack(buf, true)])
	}
}
