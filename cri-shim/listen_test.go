package crishim

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/paths"
)

func TestClaimIsExclusive(t *testing.T) {
	dir := t.TempDir()
	l := paths.Layout{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state")}
	release, err := claim(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, taken := range []paths.Layout{l, {Root: l.Root, State: l.State + "2"}, {Root: l.Root + "2", State: l.State}} {
		if _, err := claim(taken); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "another cri-shim uses "+dir) {
			t.Errorf("%+v: got %v", taken, err)
		}
	}
	other, err := claim(paths.Layout{Root: l.Root + "2", State: l.State + "2"})
	if err != nil {
		t.Fatalf("other directories: %v", err)
	}
	if err := errors.Join(release(), other()); err != nil {
		t.Fatal(err)
	}
	release, err = claim(l)
	if err != nil {
		t.Fatalf("after its end: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "s.sock")
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("directory mode %v, %v", info.Mode(), err)
	}
	if _, err := listen(path); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a living socket: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket stays after its end")
	}
}

func TestListenReplacesOnlyADeadSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := listen(path)
	if err != nil {
		t.Fatalf("a dead socket: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(precious, link); err != nil {
		t.Fatal(err)
	}
	old, other := filepath.Join(dir, "old.sock"), filepath.Join(dir, "other")
	dead, err = net.ListenUnix("unix", &net.UnixAddr{Name: old, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := errors.Join(dead.Close(), os.Symlink(old, other)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{precious, link, other, dir} {
		if _, err := listen(p); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if b, err := os.ReadFile(precious); err != nil || string(b) != "x" {
		t.Errorf("the file is gone: %v", err)
	}
}
