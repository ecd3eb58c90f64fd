package netutil

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// lockIn takes the lock of the namespace that path pins; the channel yields the way to give it up.
func lockIn(t *testing.T, path string) <-chan func() error {
	got := make(chan func() error, 1)
	go nettest.In(t, path, func() error {
		unlock, err := LockNS()
		got <- unlock
		return err
	})
	return got
}

func await(t *testing.T, what string, got <-chan func() error) (unlock func() error) {
	t.Helper()
	select {
	case unlock = <-got:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: no lock", what)
	}
	return unlock
}

func TestLockNS(t *testing.T) {
	here, elsewhere := nettest.NewNS(t), nettest.NewNS(t)
	first := await(t, "the first", lockIn(t, here))
	ok(t, await(t, "in another namespace", lockIn(t, elsewhere))())

	second := lockIn(t, here)
	select {
	case <-second:
		t.Fatal("two have the lock")
	case <-time.After(50 * time.Millisecond):
	}
	ok(t, first())
	ok(t, await(t, "the second", second)())
}

// TestLockNSIsNobodyElses: whoever is in the namespace may lock its file, also without any right.
func TestLockNSIsNobodyElses(t *testing.T) {
	here := nettest.NewNS(t)
	f, err := os.Open(here)
	ok(t, err)
	defer func() { _ = f.Close() }()
	ok(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	ok(t, await(t, "beside a lock of the namespace's file", lockIn(t, here))())
	fi, err := os.Stat(lockFile)
	ok(t, err)
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("%s: others may open it: %s", lockFile, fi.Mode())
	}
}

func TestOpenLock(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"run/lock", "run/lock"} {
		f, err := openLock(filepath.Join(dir, name))
		ok(t, err)
		ok(t, f.Close())
	}
	ok(t, os.Symlink("run/lock", filepath.Join(dir, "link")))
	if f, err := openLock(filepath.Join(dir, "link")); err == nil {
		t.Errorf("%s: it follows a link", f.Name())
	}
}
