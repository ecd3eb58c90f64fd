package podnet

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// serve listens inside of a namespace and says its name to everybody; it returns the port.
func serve(t *testing.T, netns, addr, says string) int32 {
	t.Helper()
	var l net.Listener
	nettest.In(t, netns, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, says)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return int32(l.Addr().(*net.TCPAddr).Port)
}

// TestDialLoopback: 127.0.0.1 first, ::1 where only that answers, and never the loopback of the host.
func TestDialLoopback(t *testing.T) {
	nettest.RequireRoot(t)
	netns := nettest.NewNS(t)
	only6 := serve(t, netns, "[::1]:0", "six")
	only4 := serve(t, netns, "127.0.0.1:8004", "four")
	serve(t, netns, "[::1]:8004", "six")
	for port, want := range map[int32]string{only6: "six", only4: "four"} {
		conn, err := DialLoopback(t.Context(), netns, port)
		if err != nil {
			t.Errorf("port of %s: %v", want, err)
			continue
		}
		if got, err := io.ReadAll(conn); string(got) != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		_ = conn.Close()
	}
	host, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	conn, err := DialLoopback(t.Context(), netns, int32(host.Addr().(*net.TCPAddr).Port))
	if err == nil {
		_ = conn.Close()
		t.Fatal("a port of the host was reached")
	}
	if text := err.Error(); !strings.Contains(text, "127.0.0.1:") || !strings.Contains(text, "[::1]:") {
		t.Errorf("a closed port: %v", err)
	}
}
