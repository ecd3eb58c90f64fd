package nettest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// NewNS pins a fresh network namespace with lo up and returns the path of the pin. The namespace is
// unpinned when the test ends, and dies with the last process or socket in it. It needs root.
func NewNS(tb testing.TB) string {
	tb.Helper()
	RequireRoot(tb)
	path := filepath.Join(tb.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := onThread(func() error { return pinNew(path) }); err != nil {
		tb.Fatalf("new network namespace: %v", err)
	}
	tb.Cleanup(func() { DeleteNS(tb, path) })
	return path
}

// DeleteNS unpins a namespace of NewNS before the test ends. Gone is success.
func DeleteNS(tb testing.TB, path string) {
	tb.Helper()
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		tb.Errorf("unpin %s: %v", path, err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		tb.Error(err)
	}
}

// In runs f on a thread inside the namespace that path pins. What f starts as goroutines runs outside.
func In(tb testing.TB, path string, f func() error) {
	tb.Helper()
	err := onThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		tb.Fatalf("in %s: %v", path, err)
	}
}

// onThread runs f on an OS thread that ends with it, so that no namespace leaks into other goroutines.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends, and is what /proc/self shows: held here, it is not the other one.
			done <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

func pinNew(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := loUp(); err != nil {
		return fmt.Errorf("lo up: %w", err)
	}
	source := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

func loUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// Output runs a program inside the namespace that path pins and returns what it wrote.
func Output(tb testing.TB, path, name string, args ...string) string {
	tb.Helper()
	var out []byte
	In(tb, path, func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
		}
		return err
	})
	return string(out)
}
