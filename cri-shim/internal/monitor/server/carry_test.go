package server

import (
	"bytes"
	"errors"
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
