package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// transports are what crictl can stream over.
var transports = []string{"spdy", "websocket"}

// result is the end of a program.
type result struct {
	stdout, stderr string
	err            error
}

// stream runs crictl with an input.
func (n *tester) stream(stdin string, args ...string) result {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := n.CrictlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	return result{stdout.String(), stderr.String(), err}
}

func TestExec(t *testing.T) {
	n := newNode(t)
	p := n.pod("exec")
	id := n.run(p, "exec", "main", "sleep 1000", "")
	for _, transport := range transports {
		run := func(stdin string, args ...string) result {
			return n.stream(stdin, append([]string{"exec", "-r", transport}, args...)...)
		}
		got := run("", id, "sh", "-c", "echo out; echo err >&2")
		if got.err != nil || got.stdout != "out\n" || got.stderr != "err\n" {
			t.Errorf("%s: two outputs: %+v", transport, got)
		}
		got = run("one\ntwo\n", "-i", id, "sh", "-c", "cat; echo end")
		if got.err != nil || got.stdout != "one\ntwo\nend\n" {
			t.Errorf("%s: input: %+v", transport, got)
		}
		got = run("", id, "sh", "-c", "exit 42")
		if got.err == nil || !strings.Contains(got.stderr, "42") {
			t.Errorf("%s: exit code 42: %+v", transport, got)
		}
		got = run("", id, "/no/such/command")
		if got.err == nil || !strings.Contains(got.stderr, "no such file or directory") {
			t.Errorf("%s: no such command: %+v", transport, got)
		}
		got = run(strings.Repeat("0123456789abcde\n", 1<<18), "-i", id, "sh", "-c", "head -n 1; exit 3")
		if got.err == nil || got.stdout != "0123456789abcde\n" || !strings.Contains(got.stderr, "exit code 3") {
			t.Errorf("%s: input that is not wanted: %+v", transport, got)
		}
		begin := time.Now()
		got = run("", id, "sh", "-c", "sleep 700 & echo started")
		if got.err != nil || got.stdout != "started\n" || time.Since(begin) > 20*time.Second {
			t.Errorf("%s: a child that holds the output: %+v after %s", transport, got, time.Since(begin))
		}
		big := strings.Repeat("0123456789abcde\n", 1<<18)
		got = run(big, "-i", id, "sh", "-c", "cat; echo end >&2")
		if got.err != nil || got.stdout != big || got.stderr != "end\n" {
			t.Errorf("%s: 4 MiB: %d bytes, %.100q, %v", transport, len(got.stdout), got.stderr, got.err)
		}
	}
}

// client is a crictl that runs beside the test.
type client struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader

	mu   sync.Mutex
	seen bytes.Buffer // guarded by mu
}

// terminal runs crictl on a terminal of its own, client without one.
func (n *tester) terminal(args ...string) (*client, *os.File) {
	n.t.Helper()
	c := &client{t: n.t, cmd: n.CrictlCommand(n.t.Context(), args...)}
	c.cmd.SysProcAttr = nil // a session of its own is more than a group of its own, and excludes it
	f, err := pty.StartWithSize(c.cmd, &pty.Winsize{Rows: 33, Cols: 77})
	n.must(err)
	c.in, c.out = f, f
	c.follow()
	return c, f
}

func (n *tester) client(args ...string) *client {
	n.t.Helper()
	c := &client{t: n.t, cmd: n.CrictlCommand(n.t.Context(), args...)}
	var err error
	c.out, err = c.cmd.StdoutPipe()
	n.must(err)
	c.in, err = c.cmd.StdinPipe()
	n.must(err)
	n.must(c.cmd.Start())
	return c
}

// follow collects the output until it ends. At the end of the test the client is killed.
func (c *client) follow() *client {
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 32*1024)
		for {
			n, err := c.out.Read(buf)
			c.mu.Lock()
			c.seen.Write(buf[:n])
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	c.t.Cleanup(func() {
		c.kill()
		_ = c.in.Close()
		<-done
	})
	return c
}

func (c *client) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait() // it was killed, or waited for
}

// end waits for the end of the client, but not for ever.
func (c *client) end() error {
	c.t.Helper()
	late := time.AfterFunc(patience, func() {
		c.t.Errorf("%v does not end", c.cmd.Args[7:])
		_ = c.cmd.Process.Kill()
	})
	defer late.Stop()
	return c.cmd.Wait()
}

func (c *client) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, text); err != nil {
		c.t.Error(err)
	}
}

func (c *client) saw(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(c.seen.String(), text)
}

func (c *client) await(text string) {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c.saw(text) {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.Fatalf("%q is not shown, but %.2000q", text, c.seen.String())
}

// TestExecTerminal types into a shell, resizes it, and leaves it by its exit.
func TestExecTerminal(t *testing.T) {
	n := newNode(t)
	p := n.pod("term")
	id := n.run(p, "term", "main", "sleep 1000", "")
	for _, transport := range transports {
		x, screen := n.terminal("exec", "-r", transport, "-it", id, "sh")
		n.eventually(func() bool { // the size comes right after the start
			x.say("echo size $(stty size) $TERM\n")
			return x.saw("size 33 77 xterm")
		})
		n.must(pty.Setsize(screen, &pty.Winsize{Rows: 44, Cols: 99}))
		n.eventually(func() bool {
			x.say("echo again $(stty size)\n")
			return x.saw("again 44 99")
		})
		x.say("tty; exit 7\n")
		x.await("/dev/pts/0")
		if err := x.end(); err == nil {
			t.Errorf("%s: exit code 7 was lost", transport)
		}
	}
	n.gone(id, "[ ]sh")
}

// TestExecClientLeaves: a client that is killed takes its command along, with what that has started.
func TestExecClientLeaves(t *testing.T) {
	n := newNode(t)
	p := n.pod("leave")
	id := n.run(p, "leave", "main", "sleep 1000", "")
	for _, transport := range transports {
		for _, flags := range [][]string{{}, {"-i"}} {
			args := append(append([]string{"exec", "-r", transport}, flags...), id, "sh", "-c", "echo ready; sleep 801 & sleep 802")
			x := n.client(args...).follow()
			x.await("ready\n")
			x.kill()
			n.gone(id, "sleep 80[12]")
		}
		x, _ := n.terminal("exec", "-r", transport, "-it", id, "sh", "-c", "trap '' HUP; echo re''ady; sleep 801 & sleep 802")
		x.await("ready")
		x.kill()
		n.gone(id, "sleep 80[12]")
	}
	if c := n.container(id); c.Status.State != "CONTAINER_RUNNING" {
		t.Errorf("the container is %+v", c.Status)
	}
}

// gone waits until no process of a container matches.
func (n *tester) gone(id, pattern string) {
	n.t.Helper()
	var got string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		got = n.crictl("exec", "--sync", id, "sh", "-c", "ps | grep '"+pattern+"$' || true")
		if strings.TrimSpace(got) == "" {
			return
		}
	}
	n.t.Errorf("still runs: %s", got)
}

const echoing = "while read line; do echo got $line; echo err $line >&2; done; echo end of input"

// TestAttach: two clients see the same, either may speak, and their end is not the container's.
func TestAttach(t *testing.T) {
	n := newNode(t)
	p := n.pod("attach")
	id := n.run(p, "attach", "main", echoing, `"stdin": true`)
	for _, transport := range transports {
		first := n.client("attach", "-r", transport, "-i", id).follow()
		other := n.client("attach", "-r", transport, id).follow()
		n.eventually(func() bool { // they attach at their own pace
			first.say("ping\n")
			return first.saw("got ping\n") && other.saw("got ping\n")
		})
		first.say("one\n")
		first.await("got one\n")
		other.await("got one\n")
		first.kill()
		last := n.client("attach", "-r", transport, "-i", id).follow()
		n.eventually(func() bool {
			last.say("two\n")
			return last.saw("got two\n")
		})
		other.await("got two\n")
		n.must(last.in.Close()) // no end of file for the container
		last.kill()
	}
	if c := n.container(id); c.Status.State != "CONTAINER_RUNNING" {
		t.Errorf("got %+v", c.Status)
	}
	end := n.client("attach", "-i", id).follow()
	n.eventually(func() bool {
		end.say("three\n")
		return end.saw("got three\n")
	})
	n.crictl("stop", "-t", "0", id)
	if err := end.end(); err != nil {
		t.Errorf("the end of the container: %v", err)
	}
	if got := n.stream("", "attach", id); got.err == nil || !strings.Contains(got.stderr, "not running") {
		t.Errorf("attach to a container that has ended: %+v", got)
	}
}

// TestAttachStdinOnce: the end of the first client's input is that of the container.
func TestAttachStdinOnce(t *testing.T) {
	n := newNode(t)
	p := n.pod("once")
	const once = `"stdin": true, "stdin_once": true`
	for i, transport := range transports {
		id := n.run(p, "once", fmt.Sprintf("c%d", i), echoing, once)
		got := n.stream("a\nb\n", "attach", "-r", transport, "-i", id)
		if got.err != nil || got.stdout != "got a\ngot b\nend of input\n" || got.stderr != "err a\nerr b\n" {
			t.Errorf("%s: %+v", transport, got)
		}
		if c := n.ended(id); c.Status.ExitCode != 0 {
			t.Errorf("%s: %+v", transport, c.Status)
		}
	}
	id := n.run(p, "once", "killed", echoing, once)
	x := n.client("attach", "-i", id).follow()
	x.say("x\n")
	x.await("got x\n")
	x.kill()
	if c := n.ended(id); c.Status.ExitCode != 0 {
		t.Errorf("the client was killed: %+v", c.Status)
	}
}

// TestAttachTerminal types into a container, and leaves it by the client's keys.
func TestAttachTerminal(t *testing.T) {
	n := newNode(t)
	p := n.pod("attachtty")
	id := n.run(p, "attachtty", "main", "exec sh", `"tty": true, "stdin": true`)
	for _, transport := range transports {
		x, _ := n.terminal("attach", "-r", transport, "-it", id)
		n.eventually(func() bool {
			x.say("stty size\n")
			return x.saw("33 77")
		})
		x.say("echo $((6*7))\n")
		x.await("\n42")
		x.say("\x10\x11") // ctrl-p, ctrl-q
		_ = x.end()       // it says that it was detached
	}
	if c := n.container(id); c.Status.State != "CONTAINER_RUNNING" {
		t.Errorf("got %+v", c.Status)
	}
}

// TestAttachSlow: a client that does not read is left behind; the container, its log and other clients go on.
func TestAttachSlow(t *testing.T) {
	n := newNode(t)
	p := n.pod("slow")
	// A part is more than the pipe to cri-shim holds, and less than may wait for one client beside it: a busy machine may
	// keep cri-shim from reading for long. All are well above what a client may lag behind.
	const parts, size = 16, 3 << 20
	id := n.run(p, "slow", "main", fmt.Sprintf("while read line; do [ $line = ping ] || yes $line | head -c %d; echo got $line; done", size), `"stdin": true`)
	reader := n.client("attach", "-i", id).follow()
	stopped := n.client("attach", id)
	stuck := n.client("attach", id) // its output is a pipe that nobody reads
	defer stopped.kill()
	defer stuck.kill()
	attached := make(chan error, 2)
	for _, c := range []*client{stopped, stuck} {
		go func() {
			_, err := io.ReadFull(c.out, make([]byte, len("got ping\n"))) // and not a byte more
			attached <- err
		}()
	}
	n.eventually(func() bool {
		reader.say("ping\n")
		return reader.saw("got ping\n") && len(attached) == 2
	})
	n.must(errors.Join(<-attached, <-attached))
	n.must(stopped.cmd.Process.Signal(syscall.SIGSTOP))
	for i := range parts {
		reader.say(fmt.Sprintf("part%d\n", i))
		reader.await(fmt.Sprintf("got part%d\n", i))
	}
	log := text(t, n.container(id).Status.LogPath, "stdout")
	if got := strings.Count(log, "part"); got < parts*size/len("part10\n") || !strings.HasSuffix(log, fmt.Sprintf("got part%d\n", parts-1)) {
		t.Errorf("the log has %d bytes and %d lines", len(log), got)
	}
	if c := n.container(id); c.Status.State != "CONTAINER_RUNNING" {
		t.Errorf("got %+v", c.Status)
	}
	n.eventually(func() bool { return strings.Count(n.ShimLog(), "reads slower than the container writes") >= 2 })
}

// TestPortForward: a port of the pod's own loopback, its parallel connections, a closed port, and the host's
// loopback for a pod with its network.
func TestPortForward(t *testing.T) {
	n := newNode(t)
	p := n.pod("forward")
	id := n.run(p, "forward", "main", "nc -ll -p 7 -e echo pong", "")
	n.run(p, "forward", "big", "nc -ll -p 8 -e cat", "")
	n.eventually(func() bool { // crictl gives up a session at the first connection that is refused
		tcp := n.crictl("exec", "--sync", id, "cat", "/proc/net/tcp", "/proc/net/tcp6")
		return strings.Contains(tcp, ":0007 ") && strings.Contains(tcp, ":0008 ")
	})
	for _, transport := range transports {
		c := n.client("port-forward", "-r", transport, p, "0:7", "0:8").follow()
		ports := c.ports(2)
		if got := dial(ports[0], ""); got != "pong\n" {
			t.Errorf("%s: %q", transport, got)
		}
		big := strings.Repeat("0123456789abcde\n", 1<<16)
		if got := dial(ports[1], big); got != big {
			t.Errorf("%s: %d bytes of %d came back", transport, len(got), len(big))
		}
		other := n.client("port-forward", "-r", transport, p, "0:9").follow()
		if got := dial(other.ports(1)[0], "x"); got != "" {
			t.Errorf("%s: a closed port says %q", transport, got)
		}
		if got := dial(ports[0], ""); got != "pong\n" { // the others go on
			t.Errorf("%s, after a closed port: %q", transport, got)
		}
		c.kill()
		other.kill()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	n.must(err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("host\n"))
			_ = conn.Close()
		}
	}()
	host := n.hostPod("host")
	c := n.client("port-forward", host, fmt.Sprintf("0:%d", l.Addr().(*net.TCPAddr).Port)).follow()
	if got := dial(c.ports(1)[0], ""); got != "host\n" {
		t.Errorf("the host's loopback: %q", got)
	}
}

// ports waits for the ports that crictl has chosen.
func (c *client) ports(count int) []string {
	c.t.Helper()
	form := regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+) -> `)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		found := form.FindAllStringSubmatch(c.seen.String(), -1)
		c.mu.Unlock()
		if len(found) == count {
			var out []string
			for _, f := range found {
				out = append(out, f[1])
			}
			return out
		}
	}
	c.t.Fatalf("crictl port-forward says %q", c.seen.String())
	return nil
}

// dial sends a text and returns all that comes back.
func dial(port, text string) string {
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() {
		_, _ = io.WriteString(conn, text)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	got, _ := io.ReadAll(conn)
	return string(got)
}

// counted is what cri-shim and cri-monitor hold.
type counted struct{ shimFDs, shimThreads, monitorFDs, monitorThreads, children int }

func (n *tester) count() counted {
	n.t.Helper()
	monitor, err := n.MonitorPID()
	n.must(err)
	entries := func(pid int, what string) int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, what))
		n.must(err)
		return len(list)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", monitor, monitor))
	n.must(err)
	return counted{
		entries(n.ShimPID(), "fd"), entries(n.ShimPID(), "task"), entries(monitor, "fd"), entries(monitor, "task"),
		len(strings.Fields(string(children))),
	}
}

// TestStreamStorm opens 1,000 sessions of all kinds, 12 at a time; every third is cut off by its client. Afterwards
// both programs hold what they held before.
func TestStreamStorm(t *testing.T) {
	n := newNode(t)
	p := n.pod("storm")
	id := n.run(p, "storm", "main", "nc -ll -p 7 -e tee & while :; do echo tick; sleep 0.05; done", `"stdin": true`)
	one := func(i int) {
		transport := transports[i%2]
		args := [][]string{
			{"exec", "-r", transport, "-i", id, "sh", "-c", "echo ready; cat"},
			{"attach", "-r", transport, "-i", id},
			{"port-forward", "-r", transport, p, "0:7"},
		}[i%3]
		want := []string{"ready", "tick", "Forwarding"}[i%3]
		c := n.client(args...)
		defer c.kill()
		seen := make([]byte, 0, 256)
		buf := make([]byte, 256)
		for !bytes.Contains(seen, []byte(want)) {
			k, err := c.out.Read(buf)
			if err != nil {
				t.Errorf("%v: %q, %v", args, seen, err)
				return
			}
			seen = append(seen, buf[:k]...)
		}
		switch {
		case i/3%3 == 0: // cut off
		case i%3 < 2: // the end of the input ends a command's session and an attachment
			_ = c.in.Close()
			if err := c.end(); err != nil {
				t.Errorf("%v: %v", args, err)
			}
		default:
			_ = c.cmd.Process.Signal(syscall.SIGINT)
			_ = c.end() // it says that it was interrupted
		}
	}
	storm := func(count int) {
		var wg sync.WaitGroup
		slots := make(chan struct{}, 12)
		for i := range count {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				one(i)
			})
		}
		wg.Wait()
	}
	storm(24) // threads and pools that stay
	n.gone(id, "cat")
	before := n.count()
	begin := time.Now()
	storm(1000)
	took := time.Since(begin)
	n.gone(id, "cat")
	var after counted
	n.eventually(func() bool {
		after = n.count()
		return after.shimFDs <= before.shimFDs && after.monitorFDs <= before.monitorFDs && after.children <= before.children
	})
	t.Logf("1,000 sessions in %s: before %+v, after %+v", took.Round(time.Millisecond), before, after)
	// Go keeps threads; they must not grow with the sessions.
	if after.shimThreads > before.shimThreads+20 || after.monitorThreads > before.monitorThreads+20 {
		t.Errorf("threads: before %+v, after %+v", before, after)
	}
}
