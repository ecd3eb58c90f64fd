package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// sessions are one session of each kind over each transport, in the middle of their work.
type sessions struct {
	n        *tester
	clients  []*client // of commands and attachments
	forwards []*client
	conns    []net.Conn // through the forwarded ports
}

func (n *tester) openSessions(pod, id string) *sessions {
	n.t.Helper()
	s := &sessions{n: n}
	for _, transport := range transports {
		run := n.client("exec", "-r", transport, "-i", id, "sh", "-c", "echo ready; sleep 801 & sleep 802").follow()
		run.await("ready\n")
		typed, _ := n.terminal("exec", "-r", transport, "-it", id, "sh", "-c", "trap '' HUP; echo re''ady; sleep 803 & sleep 804")
		typed.await("ready")
		attached := n.client("attach", "-r", transport, "-i", id).follow()
		n.eventually(func() bool {
			attached.say("ping\n")
			return attached.saw("got ping\n")
		})
		forward := n.client("port-forward", "-r", transport, pod, "0:8").follow()
		conn, err := net.Dial("tcp", "127.0.0.1:"+forward.ports(1)[0])
		n.must(err)
		n.t.Cleanup(func() { _ = conn.Close() })
		s.clients, s.forwards, s.conns = append(s.clients, run, typed, attached), append(s.forwards, forward), append(s.conns, conn)
	}
	s.echo()
	return s
}

// echo asks for an answer through each forwarded port.
func (s *sessions) echo() {
	s.n.t.Helper()
	for _, conn := range s.conns {
		s.n.must(conn.SetDeadline(time.Now().Add(patience)))
		_, err := io.WriteString(conn, "hi\n")
		s.n.must(err)
		_, err = io.ReadFull(conn, make([]byte, len("hi\n")))
		s.n.must(err)
	}
}

// ended waits until each client of a command and of an attachment has seen the end; how it is told is its affair.
func (s *sessions) ended() {
	s.n.t.Helper()
	for _, c := range s.clients {
		_ = c.end()
	}
}

// broken waits until each forwarded connection has.
func (s *sessions) broken() {
	s.n.t.Helper()
	for _, conn := range s.conns {
		s.n.must(conn.SetDeadline(time.Now().Add(patience)))
		if rest, err := io.ReadAll(conn); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			s.n.t.Errorf("a forwarded connection: %q, %v", rest, err)
		}
	}
}

func (s *sessions) close() {
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	for _, c := range append(s.clients, s.forwards...) {
		c.kill()
	}
}

// TestKillUnderSessions kills a program under sessions of all kinds: every client sees the end and none hangs, the
// container lives on, sessions can be had again, and no command, descriptor or process of the old ones is left. A
// forwarded port needs no cri-monitor, and outlives it.
func TestKillUnderSessions(t *testing.T) {
	n := newNode(t)
	p := n.pod("sessions")
	id := n.run(p, "sessions", "main", echoing, `"stdin": true`)
	n.run(p, "sessions", "server", "nc -ll -p 8 -e cat", "")
	n.openSessions(p, id).close() // threads and pools that stay
	n.gone(id, "sleep 80[1-4]")
	for _, killed := range []string{"cri-shim", "cri-monitor", "both"} {
		before := n.count()
		s := n.openSessions(p, id)
		if killed != "cri-shim" {
			n.must(n.KillMonitor())
		}
		if killed != "cri-monitor" {
			n.must(n.Kill())
			s.broken()
		}
		s.ended()
		if killed == "cri-monitor" {
			s.echo()
		} else {
			n.must(n.Start())
		}
		s.close()
		t.Logf("%s was killed", killed)
		n.gone(id, "sleep 80[1-4]")
		n.openSessions(p, id).close()
		n.gone(id, "sleep 80[1-4]")
		if c := n.container(id); c.Status.State != "CONTAINER_RUNNING" {
			t.Errorf("the container is %+v", c.Status)
		}
		if killed == "cri-monitor" {
			before.shimFDs++ // it has started the next one, and waits for it by a pidfd
		}
		var after counted
		n.eventually(func() bool {
			after = n.count()
			return after.shimFDs <= before.shimFDs && after.monitorFDs <= before.monitorFDs && after.children <= before.children
		})
		t.Logf("before %+v, after %+v", before, after)
	}
}
