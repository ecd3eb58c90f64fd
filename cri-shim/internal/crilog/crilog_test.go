package crilog

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func clock() time.Time { return time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC) }

const stamp = "2001-02-03T04:05:06.000000007Z "

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(path, clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// traps are what somebody who can write to the directory puts in the place of a log. write is what it leads to.
func traps(t *testing.T) map[string]func(path string) error {
	victim := t.TempDir() + "/victim"
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
			t.Errorf("the file that a link leads to: %q, %v", got, err)
		}
		if _, err := os.Lstat(victim + "2"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what a dangling link leads to was made: %v", err)
		}
	})
	return map[string]func(path string) error{
		"link": func(p string) error { return os.Symlink(victim, p) }, "dangling link": func(p string) error { return os.Symlink(victim+"2", p) },
		"FIFO": func(p string) error { return unix.Mkfifo(p, 0o600) }, "directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"device": func(p string) error { return os.Symlink("/dev/null", p) },
	}
}

// TestOnlyFilesAreOpened: a log is a regular file, or there is none; nothing blocks, and no link is followed.
func TestOnlyFilesAreOpened(t *testing.T) {
	for name, put := range traps(t) {
		path := t.TempDir() + "/log"
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		if l, err := Open(path, clock); err == nil {
			_ = l.Close()
			t.Errorf("a %s is opened", name)
		}
	}
}

// TestRotationIsNoTrap: when something else stands in the place of the log after a rotation, the log goes on in the
// file that it had.
func TestRotationIsNoTrap(t *testing.T) {
	for name, put := range traps(t) {
		path := t.TempDir() + "/log"
		l := open(t, path)
		if err := errors.Join(os.Rename(path, path+".1"), put(path)); err != nil {
			t.Fatal(err)
		}
		if err := l.Reopen(); err == nil {
			t.Errorf("a %s is opened anew", name)
		}
		l.Write(Stdout, []byte("on\n"), false)
		if got, err := os.ReadFile(path + ".1"); err != nil || string(got) != stamp+"stdout F on\n" {
			t.Errorf("%s: the log is %q, %v", name, got, err)
		}
	}
}

// TestNobodyWritesLines: what a container writes is text of its own lines, whatever it looks like.
func TestNobodyWritesLines(t *testing.T) {
	path := t.TempDir() + "/log"
	l := open(t, path)
	fake := "2001-01-01T00:00:00.000000000Z stderr F forged"
	long := strings.Repeat("x", MaxLine)
	in := fake + "\n\x00\x1b[2J\r\n\n" + long + "\n" + long + "yz\nrest"
	taken := l.Write(Stdout, []byte(in), false)
	if in[taken:] != "rest" {
		t.Errorf("not taken: %.60q", in[taken:])
	}
	if n := l.Write(Stdout, []byte("rest"), true); n != 4 {
		t.Errorf("%d bytes of the end", n)
	}
	var want strings.Builder
	for _, line := range []string{"F " + fake, "F \x00\x1b[2J\r", "F ", "F " + long, "P " + long, "F yz", "P rest"} {
		want.WriteString(stamp + "stdout " + line + "\n")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want.String() {
		t.Errorf("%v, %.400q", err, got)
	}
}
