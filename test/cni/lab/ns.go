// Package lab makes nodes to try CNI plugins on: a network namespace that stands for the host, one for the network
// around it, and one for each pod. Plugins are run as a runtime runs them, as processes inside the node's namespace.
// The namespaces have no names and no mounts: file descriptors of this process hold them, and they end with it, however
// it ends. Nothing of the real host is touched, but for what the plugins under test write into their data directories.
package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// NS is a network namespace.
type NS struct {
	fd   int
	path string
}

// nextFD gives every namespace a descriptor number that no other one had before, as long as numbers last: a path that
// was handed to a plugin must not lead to the namespace of somebody else later.
var nextFD atomic.Int64

const firstFD = 128

// NewNS makes a namespace in which lo is up.
func NewNS() (*NS, error) {
	n := &NS{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := loUp(); err != nil {
			return fmt.Errorf("lo up: %w", err)
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		n.fd, err = highFD(fd)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("new network namespace: %w", err)
	}
	n.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.fd)
	return n, nil
}

// highFD duplicates a descriptor to a number that was not used yet; when all were, to the lowest that is free.
func highFD(fd int) (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	want := firstFD + nextFD.Add(1)
	if uint64(want) >= limit.Cur {
		want = firstFD
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, int(want))
}

// Path is what CNI_NETNS gets.
func (n *NS) Path() string { return n.path }

// Close lets go of the namespace. It ends with the last process and socket in it.
func (n *NS) Close() {
	if n.fd > 0 {
		_ = unix.Close(n.fd)
	}
	n.fd = 0
}

// Do runs f on a thread inside the namespace. Goroutines that f starts run outside; sockets that it makes stay inside.
func (n *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", n.path, err)
		}
		return f()
	})
}

// Run runs a program in the namespace and returns what it says on stdout.
func (n *NS) Run(name string, args ...string) (string, error) {
	return n.RunWith("", name, args...)
}

// RunWith is Run with something on stdin.
func (n *NS) RunWith(stdin, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := n.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), err
}

// Batch runs lines of ip(8) commands.
func (n *NS) Batch(lines ...string) error {
	_, err := n.RunWith(strings.Join(lines, "\n"), "ip", "-batch", "-")
	return err
}

// Sysctl reads a setting below /proc/sys/net; "" when the kernel does not have it.
func (n *NS) Sysctl(key string) (value string, err error) {
	err = n.Do(func() error {
		data, err := os.ReadFile("/proc/sys/net/" + key)
		value = strings.TrimSpace(string(data))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	return value, err
}

// SetSysctl writes a setting below /proc/sys/net.
func (n *NS) SetSysctl(key, value string) error {
	return n.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
}

// onThread runs f on an OS thread that ends with it, so that no namespace leaks into other goroutines.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
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
