package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// smallMount is a file system of 32 pages.
func smallMount(t *testing.T) (dir string, fill func()) {
	nettest.RequireRoot(t)
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, func() {
		if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// TestOutputOnAFullStateDirectory: whatever fills /run, containers write on and are logged, and the monitor lives.
func TestOutputOnAFullStateDirectory(t *testing.T) {
	for name, when := range map[string]struct{ before, between bool }{"full at the start": {before: true}, "full later": {between: true}} {
		t.Run(name, func(t *testing.T) {
			bundle, fill := smallMount(t)
			if when.before {
				fill()
			}
			r := record{Bundle: bundle, LogPath: filepath.Join(t.TempDir(), "log")}
			from, to, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			s := &stdio{log: crilog.New(r.log(), time.Now)}
			if err := s.log.Open(); err != nil {
				t.Fatal(err)
			}
			if err := s.pump(r, crilog.Stdout, from); err != nil {
				t.Fatal(err)
			}
			write := func(text []byte) {
				_ = to.SetWriteDeadline(time.Now().Add(10 * time.Second))
				if _, err := to.Write(text); err != nil {
					t.Fatal(err)
				}
			}
			write([]byte("begin"))
			if when.between {
				time.Sleep(100 * time.Millisecond)
				fill()
			}
			for range 100 {
				write(bytes.Repeat([]byte("0123456789abcde"), 1000))
			}
			write([]byte("end\n"))
			_ = to.Close()
			s.finish()
			log, err := os.ReadFile(r.LogPath)
			if err != nil {
				t.Fatal(err)
			}
			var text []byte
			for line := range bytes.Lines(log) {
				text = append(text, bytes.TrimSuffix(bytes.SplitN(line, []byte(" "), 4)[3], []byte("\n"))...)
			}
			if want := "begin" + string(bytes.Repeat([]byte("0123456789abcde"), 100000)) + "end"; string(text) != want {
				t.Errorf("logged %d bytes of %d", len(text), len(want))
			}
		})
	}
}

// TestKilledWithinARead: a monitor dies between the read of a FIFO and the word that it took place, or just before the
// read. The next one has every byte once.
func TestKilledWithinARead(t *testing.T) {
	for _, before := range []int{0, 1, 5000} {
		for _, n := range []int{1, 2, markLen, markLen + 1, 4096, 50000} {
			for _, took := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d bytes after %d, read %t", n, before, took), func(t *testing.T) { dieWithinARead(t, before, n, took) })
			}
		}
	}
}

func dieWithinARead(t *testing.T, before, n int, took bool) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	source, err := from.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	path, text := filepath.Join(t.TempDir(), "carry"), make([]byte, before+n)
	for i := range text {
		text[i] = byte(i>>8 ^ i)
	}
	open := func() *carry {
		c, err := openCarry(path)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	write := func(b []byte) {
		if _, err := to.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	first := open()
	if before > 0 {
		write(text[:before])
		if got, err := first.read(source); err != nil || len(got) != before {
			t.Fatalf("%d of %d bytes, %v", len(got), before, err)
		}
	}
	write(text[before:])
	room := first.room()[:n]
	if err := first.expect(n); err != nil {
		t.Fatal(err)
	}
	if took {
		if got, err := from.Read(room); err != nil || got != n {
			t.Fatalf("%d of %d bytes, %v", got, n, err)
		}
	}
	next := open()
	want := before
	if took {
		want += n
	}
	if !bytes.Equal(next.unlogged(), text[:want]) {
		t.Fatalf("the next finds %d bytes, want %d", len(next.unlogged()), want)
	}
	_ = to.Close()
	for err == nil {
		_, err = next.read(source)
	}
	if !errors.Is(err, io.EOF) || !bytes.Equal(next.unlogged(), text) {
		t.Errorf("in the end %d bytes of %d, %v", len(next.unlogged()), len(text), err)
	}
	if err := errors.Join(first.close(), next.close()); err != nil {
		t.Error(err)
	}
}

// BenchmarkPump moves lines of 100 bytes from a pipe into a log.
func BenchmarkPump(b *testing.B) {
	from, to, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	r := record{Bundle: b.TempDir(), LogPath: filepath.Join(b.TempDir(), "log")}
	s := &stdio{log: crilog.New(r.log(), time.Now)}
	if err := errors.Join(s.log.Open(), s.pump(r, crilog.Stdout, from)); err != nil {
		b.Fatal(err)
	}
	line := append(bytes.Repeat([]byte("x"), 99), '\n')
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if _, err := to.Write(line); err != nil {
			b.Fatal(err)
		}
	}
	_ = to.Close()
	s.finish()
}
