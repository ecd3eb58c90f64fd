package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// CrictlCommand is a crictl that speaks to this node.
func (n *Node) CrictlCommand(ctx context.Context, args ...string) *exec.Cmd {
	endpoint := "unix://" + n.Socket
	cmd := exec.CommandContext(ctx, filepath.Join(n.programs.Tools, "crictl"),
		append([]string{"--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "60s"}, args...)...)
	cmd.Env = append(os.Environ(), "CRI_CONFIG_FILE="+n.Base+"/crictl-pull.yaml")
	cmd.SysProcAttr = apart()
	return cmd
}

// Crictl runs crictl and returns its standard output, without the last newline. The error holds what else it said.
func (n *Node) Crictl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := n.CrictlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("crictl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSuffix(stdout.String(), "\n"), err
}

// File writes a file that is given to crictl.
func (n *Node) File(name, content string) (string, error) {
	path := filepath.Join(n.Base, name)
	return path, os.WriteFile(path, []byte(content), 0o644)
}

// Doctor runs cri-shim doctor and returns its standard output and its exit code.
func (n *Node) Doctor(args ...string) (out string, exit int, err error) {
	cmd := exec.Command(filepath.Join(n.programs.Bin, "cri-shim"), append(append([]string{"doctor"}, n.flags()...), args...)...)
	cmd.SysProcAttr = apart()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		if ended.ExitCode() > 1 {
			return stdout.String(), ended.ExitCode(), fmt.Errorf("cri-shim doctor: %w: %s", err, stderr.String())
		}
		return stdout.String(), ended.ExitCode(), nil
	}
	return stdout.String(), 0, err
}
