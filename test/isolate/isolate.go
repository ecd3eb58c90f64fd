// Package isolate moves a program into network and mount namespaces of its own, so that what it makes of links,
// rules and mounts cannot disturb the host, and is gone with it.
package isolate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// inside marks the program that has been moved.
const inside = "PODWRIGHT_ISOLATED"

// Main is the main function of tests that need root, and run in new namespaces: for a user they are skipped, but not in
// CI. prepare runs before them.
func Main(m interface{ Run() int }, prepare func() error) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, "needs root, and CI must not skip it")
			os.Exit(1)
		}
		fmt.Println("needs root: skipped")
		return
	}
	code, done, err := Reexec()
	if err == nil && !done {
		err = prepare()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if done {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// Reexec runs the program again in new namespaces and returns its exit code and true, or false in the program that has been
// moved, where lo is up by then. It needs root.
func Reexec() (code int, done bool, err error) {
	if os.Getenv(inside) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			return 1, true, fmt.Errorf("set lo up: %w: %s", err, out)
		}
		return 0, false, nil
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Unshareflags makes the mounts private as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return ended.ExitCode(), true, nil
	}
	return 0, true, err
}
