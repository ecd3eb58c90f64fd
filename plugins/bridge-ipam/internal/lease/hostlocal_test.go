package lease

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/durable"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestBeside: what host-local left counts as taken until it is released, and what is no lease of it is let be.
func TestBeside(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "net")
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"10.0.0.2": "c\r\neth0", "10.0.0.3": "c\r\neth1", "10.0.0.4": "legacy", "10.0.0.5": "", "fd00::2": "c\r\neth0",
		"10.0.0.6": "d\neth0\n", "last_reserved_ip.0": "10.0.0.6", "lock": "", "notes": "c\r\neth0", "10.0.0.300": "c\r\neth0",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(old, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(unix.Mkfifo(filepath.Join(old, "10.0.0.7"), 0o600), os.Symlink("/dev/zero", filepath.Join(old, "10.0.0.8"))); err != nil {
		t.Fatal(err)
	}
	s := New(dir, "net", "boot").Beside(dir)
	l, err := s.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Unlock() }()
	if err := l.Commit(Lease{Attachment: Attachment{"new", "eth0"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}); err == nil {
		t.Error("an address of host-local was given out")
	}
	all, err := s.Adopted()
	if err != nil || len(all) != 6 {
		t.Errorf("%v, %v", all, err)
	}
	for _, c := range []struct {
		at   Attachment
		free []string
	}{
		{Attachment{"x", "eth0"}, nil},
		{Attachment{"c", "eth0"}, []string{"10.0.0.2", "fd00::2"}},
		{Attachment{"c", "eth0"}, nil},
		{Attachment{"legacy", "any"}, []string{"10.0.0.4"}},
		{Attachment{"d", "eth0"}, []string{"10.0.0.6"}},
	} {
		if err := l.Release(c.at); err != nil {
			t.Error(err)
		}
		for _, a := range c.free {
			if l.Taken(netip.MustParseAddr(a)) {
				t.Errorf("%s of %v is still taken", a, c.at)
			}
		}
	}
	for _, a := range []string{"10.0.0.3", "10.0.0.5"} {
		if !l.Taken(netip.MustParseAddr(a)) {
			t.Errorf("%s is free", a)
		}
	}
	if _, err := os.Stat(filepath.Join(old, "notes")); err != nil {
		t.Error(err)
	}
}

// TestTellHostLocal: in a directory that host-local has given addresses of, it is told of ours in its form,
// under its lock, and its files go with our leases.
func TestTellHostLocal(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	old := filepath.Join(theirs, "net")
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	s := New(ours, "net", "boot").Beside(theirs)
	at := Attachment{"c", "eth0"}
	addr := netip.MustParseAddr("10.0.0.9")
	file := filepath.Join(old, addr.String())
	for _, shared := range []bool{false, true} {
		if shared {
			if err := os.WriteFile(filepath.Join(old, marker), []byte("10.0.0.2"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := s.Lock()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(Lease{Attachment: at, Addresses: []netip.Addr{addr}}); err != nil {
			t.Fatal(err)
		}
		lock, busy := durable.TryAcquire(filepath.Join(old, "lock"))
		if (busy != nil) != shared {
			t.Errorf("shared %t: host-local's lock: %v", shared, busy)
		}
		if lock != nil {
			_ = lock.Release()
		}
		data, _ := os.ReadFile(file)
		if want := map[bool]string{true: "c\r\neth0"}[shared]; string(data) != want {
			t.Errorf("shared %t: %q, want %q", shared, data, want)
		}
		if err := errors.Join(l.Release(at), l.Unlock()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(file); err == nil || s.Taken(addr) {
			t.Errorf("shared %t: still held: %v", shared, err)
		}
	}
}

// TestTellHostLocalInPart: a lease that there is room for one of two files of is none, in host-local's books too.
func TestTellHostLocalInPart(t *testing.T) {
	nettest.RequireRoot(t)
	ours, theirs := t.TempDir(), t.TempDir()
	old := filepath.Join(theirs, "net")
	ok(t, os.Mkdir(old, 0o755))
	ok(t, unix.Mount("none", old, "tmpfs", 0, "nr_inodes=4")) // its root, the marker, the lock, one more
	defer func() { ok(t, unix.Unmount(old, unix.MNT_DETACH)) }()
	ok(t, os.WriteFile(filepath.Join(old, marker), []byte("10.0.0.2"), 0o600))
	s := New(ours, "net", "boot").Beside(theirs)
	l, err := s.Lock()
	ok(t, err)
	defer func() { ok(t, l.Unlock()) }()
	if err := l.Commit(of("c", addr(8), addr(9))); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("commit on a full disk: %v", err)
	}
	for _, a := range []netip.Addr{addr(8), addr(9)} {
		if s.Taken(a) {
			t.Errorf("%s is held", a)
		}
	}
}

// TestSweepBesideHostLocal: what a killed writer left goes, there too.
func TestSweepBesideHostLocal(t *testing.T) {
	theirs := t.TempDir()
	ok(t, os.Mkdir(filepath.Join(theirs, "net"), 0o755))
	left := filepath.Join(theirs, "net", "10.0.0.9.durable-tmp-1")
	for _, file := range []string{left, filepath.Join(theirs, "net", marker)} {
		ok(t, os.WriteFile(file, []byte("c\r\neth0"), 0o600))
	}
	locked(t, New(t.TempDir(), "net", "boot").Beside(theirs), func(l *Locked) { ok(t, l.Sweep()) })
	if _, err := os.Stat(left); err == nil {
		t.Error("a temporary file is left")
	}
}
