package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/podwright/podwright/test/daemon"
)

// Start starts cri-shim and returns when it answers.
func (n *Node) Start() (err error) {
	cmd := exec.Command(filepath.Join(n.programs.Bin, "cri-shim"), append([]string{"serve"}, n.flags()...)...)
	cmd.SysProcAttr = apart()
	if n.shim, err = daemon.Start("cri-shim", n.shimLog(), cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return n.shim.Await(ctx, func(context.Context) error { return n.answers() })
}

// answers looks whether cri-shim does. Where crictl takes a second, it is not started for a socket that nobody serves.
func (n *Node) answers() error {
	conn, err := net.Dial("unix", n.Socket)
	if err != nil {
		return err
	}
	_, err = n.Crictl("version")
	return errors.Join(err, conn.Close())
}

// flags are what tells a cri-shim that it is this node's.
func (n *Node) flags() []string {
	flags := []string{
		"--config", n.Base + "/config.toml", "--root", n.Root, "--state", n.State, "--listen", n.Socket,
		"--cni-conf-dir", n.NetDir, "--cni-bin-dir", n.binDir, "--registry-config-dir", n.Hosts, "--log-level", "debug",
	}
	if n.runtime != "" {
		flags = append(flags, "--runtime", n.runtime)
	}
	return flags
}

func (n *Node) shimLog() string { return n.Base + "/cri-shim.log" }

// ShimLog is what cri-shim has logged.
func (n *Node) ShimLog() string {
	data, _ := os.ReadFile(n.shimLog())
	return string(data)
}

// ShimPID is the process of cri-shim, 0 when it does not run.
func (n *Node) ShimPID() int { return n.shim.PID() }

// Kill ends cri-shim by kill -9.
func (n *Node) Kill() error { return n.end(syscall.SIGKILL) }

// Terminate ends cri-shim in the orderly way.
func (n *Node) Terminate() error { return n.end(syscall.SIGTERM) }

func (n *Node) end(sig syscall.Signal) error {
	err := n.shim.End(sig)
	n.shim = nil
	return err
}

// MonitorPID is the process of cri-monitor.
func (n *Node) MonitorPID() (int, error) {
	data, err := os.ReadFile(n.State + "/monitor/pid")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// KillMonitor ends cri-monitor by kill -9.
func (n *Node) KillMonitor() error {
	pid, err := n.MonitorPID()
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

func (n *Node) stopMonitor() error {
	pid, err := n.MonitorPID()
	if err != nil {
		return nil // it never ran
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return fmt.Errorf("end cri-monitor: %w", err)
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if !running(pid) {
			return nil
		}
	}
	return fmt.Errorf("cri-monitor %d does not end", pid)
}

// running says whether a process is more than a zombie that the host's process 1 has not reaped yet.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ") // proc_pid_stat(5)
	return err == nil && !strings.HasPrefix(state, "Z")
}
