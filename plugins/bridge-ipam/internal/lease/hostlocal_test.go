package lease

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
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
