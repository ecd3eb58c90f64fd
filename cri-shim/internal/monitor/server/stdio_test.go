package server

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
)

// TestFIFOsAreNotLinks: a link in the place of a FIFO is not followed, for writing nor for reading.
func TestFIFOsAreNotLinks(t *testing.T) {
	for _, stream := range []string{"stdin", "stdout", "stderr"} {
		dir := t.TempDir()
		r := record{Bundle: dir, Stdin: true}
		if err := errors.Join(os.WriteFile(dir+"/victim", []byte("precious"), 0o600), os.Symlink(dir+"/victim", fifo(dir, stream))); err != nil {
			t.Fatal(err)
		}
		if ends, err := makeFIFOs(r); err == nil {
			closeIO(ends)
			t.Errorf("%s is opened", stream)
		}
	}
	dir := t.TempDir()
	ends, err := makeFIFOs(record{Bundle: dir, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIO(ends)
	for _, stream := range []string{"stdin", "stdout", "stderr"} {
		if fi, err := os.Lstat(fifo(dir, stream)); err != nil || fi.Mode() != os.ModeNamedPipe|0o600 {
			t.Errorf("%s: %v, %v", stream, fi.Mode(), err)
		}
	}
}

// TestOurEndsAreNotLinks: nor is one that takes the place of a FIFO, or of what was read from it, later.
func TestOurEndsAreNotLinks(t *testing.T) {
	for _, name := range []string{"", "stdin", "stdout", "stderr", "stdout.carry", "stderr.carry"} {
		dir := t.TempDir()
		r := record{Bundle: dir, Stdin: true, StdinOnce: true}
		ends, err := makeFIFOs(r)
		if err != nil {
			t.Fatal(err)
		}
		victim := dir + "/victim"
		if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if name != "" {
			if err := os.Remove(fifo(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if err := os.Symlink(victim, fifo(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		s := &stdio{log: crilog.New(crilog.Place{}, time.Now)}
		if err := s.follow(r); (err == nil) != (name == "") {
			t.Errorf("%q is a link: %v", name, err)
		}
		r.StdinOnce = false
		input, err := s.input(r)
		if err == nil {
			_ = input.Close()
		}
		if (err == nil) == (name == "stdin") {
			t.Errorf("%q is a link: an attachment: %v", name, err)
		}
		closeIO(ends)
		s.finish()
		if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
			t.Errorf("%q is a link: the file that it leads to is %.20q, %v", name, got, err)
		}
	}
}
