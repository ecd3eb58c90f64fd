package e2e

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
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
