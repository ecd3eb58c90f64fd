package crilog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func clock() time.Time { return time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC) }

const stamp = "2001-02-03T04:05:06.000000007Z "

func at(path string) *Log { return New(Place{filepath.Dir(path), filepath.Base(path)}, clock) }

func open(t *testing.T, path string) *Log {
	t.Helper()
	l := at(path)
	if err := l.Open(); err != nil {
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
		"link to a device": func(p string) error { return os.Symlink("/dev/null", p) },
		"FIFO that is read": func(p string) error {
			if err := unix.Mkfifo(p, 0o600); err != nil {
				return err
			}
			reader, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
			t.Cleanup(func() { _ = reader.Close() })
			return err
		},
	}
}

// TestOnlyFilesAreOpened: a log is a regular file, or there is none; nothing blocks, and no link is followed.
func TestOnlyFilesAreOpened(t *testing.T) {
	for name, put := range traps(t) {
		path := t.TempDir() + "/log"
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		if l := at(path); l.Open() == nil {
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

// TestDirectoriesAreNotLinks: below the directory that is trusted no link is followed, whether it was there before the
// log or took its directory's place; links on the way to it are. A log that cannot be opened discards until it can.
func TestDirectoriesAreNotLinks(t *testing.T) {
	for _, swapped := range []string{"pod", "pod/main", "pod/main/0.log"} {
		base, outside := t.TempDir(), t.TempDir()
		if err := errors.Join(os.Mkdir(base+"/disk", 0o700), os.Symlink("disk", base+"/logs"), os.MkdirAll(outside+"/main", 0o700)); err != nil {
			t.Fatal(err)
		}
		l := New(Place{base + "/logs", "pod/main/0.log"}, clock)
		if err := l.Open(); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		path := base + "/disk/" + swapped
		if err := errors.Join(os.Rename(path, base+"/was"), os.Symlink(outside, path)); err != nil {
			t.Fatal(err)
		}
		late := New(Place{base + "/logs", "pod/main/0.log"}, clock)
		if late.Open() == nil || late.Reopen() == nil || l.Reopen() == nil {
			t.Errorf("%s: a link is followed", swapped)
		}
		if n := late.Write(Stdout, []byte("lost\n"), false); n != 5 {
			t.Errorf("%s: not opened, it takes %d bytes", swapped, n)
		}
		l.Write(Stdout, []byte("kept\n"), false)
		if made, _ := filepath.Glob(outside + "/*/*"); len(made) > 0 {
			t.Errorf("%s: made outside: %v", swapped, made)
		}
		if err := errors.Join(os.Remove(path), os.Rename(base+"/was", path), late.Reopen()); err != nil {
			t.Fatal(err)
		}
		late.Write(Stdout, []byte("late\n"), false)
		_ = late.Close()
		if got, err := os.ReadFile(base + "/disk/pod/main/0.log"); err != nil || string(got) != stamp+"stdout F kept\n"+stamp+"stdout F late\n" {
			t.Errorf("%s: the log is %q, %v", swapped, got, err)
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

// TestQuietLogsHoldNothing: a node has hundreds of logs, of which a few are written at a time.
func TestQuietLogsHoldNothing(t *testing.T) {
	lines := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 600))
	dir := t.TempDir()
	held := func() uint64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := held()
	var logs []*Log
	for i := range 200 {
		l := open(t, filepath.Join(dir, strconv.Itoa(i)))
		if n := l.Write(Stdout, lines, false); n != len(lines) {
			t.Fatalf("took %d", n)
		}
		logs = append(logs, l)
	}
	if now := held(); now > before+4<<20 {
		t.Errorf("%d logs hold %d bytes", len(logs), now-before)
	}
	runtime.KeepAlive(logs)
}
