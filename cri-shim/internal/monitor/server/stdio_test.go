package server

import (
	"errors"
	"os"
	"testing"
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
