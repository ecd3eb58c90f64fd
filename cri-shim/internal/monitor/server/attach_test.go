package server

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
)

// listener is a client's end of an attachment.
type listener struct {
	m              *member
	stdout, stderr *os.File
}

func listen(t *testing.T, a *audience, spare *allowance) listener {
	t.Helper()
	stdout, toStdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, toStderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMember(spare, toStdout, toStderr)
	if err != nil || !a.join(m) {
		t.Fatalf("join: %v", err)
	}
	t.Cleanup(func() {
		a.leave(m)
		_ = stdout.Close()
		_ = stderr.Close()
	})
	return listener{m, stdout, stderr}
}

func (l listener) gone() bool {
	select {
	case <-l.m.left:
		return true
	default:
		return false
	}
}

// said is size bytes of numbered lines.
func said(name string, size int) []byte {
	var out bytes.Buffer
	for i := 0; out.Len() < size; i++ {
		fmt.Fprintf(&out, "%s %d\n", name, i)
	}
	return out.Bytes()[:size]
}

func tellAll(a *audience, stream crilog.Stream, data []byte) {
	for len(data) > 0 {
		n := min(len(data), 60000) // no divisor of the pipe's size
		a.tell(stream, data[:n])
		data = data[n:]
	}
}

// TestBacklog: who reads late gets every byte of both streams in order, and then what was said meanwhile, and the end.
func TestBacklog(t *testing.T) {
	a, spare := &audience{}, newAllowance(monitorBacklog)
	l := listen(t, a, spare)
	early, errs, late := said("early", 5<<20), said("err", 3<<20), said("late", 2<<20)
	tellAll(a, crilog.Stdout, early)
	tellAll(a, crilog.Stderr, errs)
	if spare.left.Load() == monitorBacklog {
		t.Error("nothing waits")
	}
	gotErrs := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(l.stderr)
		gotErrs <- data
	}()
	got := make([]byte, 3<<20)
	if _, err := io.ReadFull(l.stdout, got); err != nil {
		t.Fatal(err)
	}
	tellAll(a, crilog.Stdout, late)
	a.end()
	if l.gone() {
		t.Error("its end has come before it could read")
	}
	rest, err := io.ReadAll(l.stdout)
	if want := append(early, late...); err != nil || !bytes.Equal(append(got, rest...), want) {
		t.Errorf("stdout: %d bytes of %d, %v", len(got)+len(rest), len(want), err)
	}
	if data := <-gotErrs; !bytes.Equal(data, errs) {
		t.Errorf("stderr: %d bytes of %d", len(data), len(errs))
	}
	<-l.m.left
	if l.m.slow {
		t.Error("who read all was called slow")
	}
	l.m.work.Wait()
	if got := spare.left.Load(); got != monitorBacklog {
		t.Errorf("%d bytes are not given back", monitorBacklog-got)
	}
}

// TestTooMuchWaits: who does not read is dropped at its own limit, or at that of all, and nobody else is.
func TestTooMuchWaits(t *testing.T) {
	for name, c := range map[string]struct {
		spare int64
		size  int
	}{
		"its own limit":    {monitorBacklog, memberBacklog + 2*pipeSize},
		"the limit of all": {1 << 20, 4 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			a, spare := &audience{}, newAllowance(c.spare)
			reads, sleeps := listen(t, a, spare), listen(t, a, spare)
			data := said("line", c.size)
			got := make([]byte, len(data))
			for rest := got; len(rest) > 0; { // as fast as it is told
				n := min(len(rest), 60000)
				a.tell(crilog.Stdout, data[len(data)-len(rest):][:n])
				if _, err := io.ReadFull(reads.stdout, rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if !bytes.Equal(got, data) || reads.gone() {
				t.Error("who reads lost something")
			}
			if !sleeps.gone() || !sleeps.m.slow {
				t.Fatal("who does not read is still there")
			}
			sleeps.m.work.Wait()
			if got := spare.left.Load(); got != c.spare {
				t.Errorf("%d bytes are not given back", c.spare-got)
			}
		})
	}
}

// TestLeavesWhileMuchWaits: who closes its end, or leaves, while much waits for it costs nothing any more, and is not
// called slow.
func TestLeavesWhileMuchWaits(t *testing.T) {
	a, spare := &audience{}, newAllowance(monitorBacklog)
	closes, leaves := listen(t, a, spare), listen(t, a, spare)
	tellAll(a, crilog.Stdout, said("line", 3<<20))
	_ = closes.stdout.Close()
	select {
	case <-closes.m.left:
	case <-time.After(20 * time.Second):
		t.Fatal("who has closed its end is still there")
	}
	a.leave(leaves.m)
	a.leave(closes.m)
	if closes.m.slow || leaves.m.slow {
		t.Error("who left was called slow")
	}
	if got := spare.left.Load(); got != monitorBacklog {
		t.Errorf("%d bytes are not given back", monitorBacklog-got)
	}
	a.tell(crilog.Stdout, []byte("x"))
	a.end()
	if a.join(leaves.m) {
		t.Error("joined after the end")
	}
}
