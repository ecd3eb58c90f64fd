package stats

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func write(t *testing.T, path string, size int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMeasure: every inode once, links not followed.
func TestMeasure(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "big"), 1<<20)
	empty, err := measure(t.Context(), dir)
	if err != nil || empty.Inodes != 1 {
		t.Fatalf("an empty directory: %+v, %v", empty, err)
	}
	write(t, filepath.Join(dir, "a"), 100_000)
	write(t, filepath.Join(dir, "d/e/b"), 100_000)
	for _, err := range []error{
		os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "d/again")),
		os.Symlink(outside, filepath.Join(dir, "link")),
		os.Symlink(filepath.Join(outside, "big"), filepath.Join(dir, "d/link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), // opened, it would block
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sparse.Truncate(1<<30), sparse.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := measure(t.Context(), dir)
	// ., a, d, d/e, d/e/b, link, d/link, fifo, sparse
	if err != nil || got.Inodes != 9 || got.Bytes < 200_000 || got.Bytes > 400_000 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := measure(t.Context(), filepath.Join(dir, "none")); !errdefs.IsNotFound(err) {
		t.Errorf("of nothing: %v", err)
	}
	if got, err := measure(t.Context(), filepath.Join(dir, "link")); err == nil {
		t.Errorf("through a link: %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := measure(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

// TestMeasureBoundsLinks: files with several names count once each, however few of them are remembered.
func TestMeasureBoundsLinks(t *testing.T) {
	dir := t.TempDir()
	for i := range 10 {
		write(t, filepath.Join(dir, fmt.Sprint("a", i)), 100_000)
		for j := range i % 4 {
			if err := os.Link(filepath.Join(dir, fmt.Sprint("a", i)), filepath.Join(dir, fmt.Sprintf("b%d-%d", i, j))); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, err := measure(t.Context(), dir)
	if err != nil || want.Inodes != 11 {
		t.Fatalf("got %+v, %v", want, err)
	}
	for most := range 8 {
		if got, err := measureWithin(t.Context(), dir, most); err != nil || got != want {
			t.Errorf("remembering %d: got %+v, want %+v, %v", most, got, want, err)
		}
	}
}

// TestMeasureBoundsDepth: a tree as deep as no path can name is refused, and holds no file open.
func TestMeasureBoundsDepth(t *testing.T) {
	dir := t.TempDir()
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range maxDepth + 1 {
		if err := unix.Mkdirat(at, "d", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(at, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(at)
		at = next
	}
	_ = unix.Close(at)
	before := openFDs(t)
	if _, err := measure(t.Context(), dir); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), fmt.Sprint(maxDepth)) {
		t.Errorf("got %v", err)
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d files were open, now %d", before, after)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
