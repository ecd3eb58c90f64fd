package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// nnp prints as whom it runs: root, when its setuid bit counts.
func nnp([]string) error {
	fmt.Printf("Effective uid: %d\n", os.Geteuid())
	return nil
}

// pause sleeps until it is told to end.
func pause([]string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	return nil
}

// pgrep prints the pids of the processes whose name holds the argument; none is exit code 1, without a word.
func pgrep(args []string) error {
	if len(args) != 1 {
		return errors.New("want one name")
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	found := false
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		name, err := os.ReadFile(dir + "/comm")
		if err != nil || pid == os.Getpid() || !strings.Contains(string(name), args[0]) {
			continue
		}
		fmt.Println(pid)
		found = true
	}
	if !found {
		os.Exit(1)
	}
	return nil
}

// ipcs lists the shared memory segments of its IPC namespace (proc_sysvipc(5)): key, id, owner, mode, size.
func ipcs([]string) error {
	table, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return err
	}
	fmt.Println("------ Shared Memory Segments --------\nkey        shmid      owner      perms      bytes")
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] == "key" {
			continue
		}
		fmt.Printf("%-10s %-10s %-10s %-10s %s\n", f[0], f[1], f[7], f[2], f[3])
	}
	return nil
}
