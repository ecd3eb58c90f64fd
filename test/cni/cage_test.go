package cni

import (
	"bufio"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/podwright/podwright/test/cni/lab"
)

// cage is a process with mounts of its own on a node: what is written below /run and /var/lib there is not on the
// real host and ends with it.
type cage struct {
	*lab.Node
	t   *testing.T
	pid string
}

func newCage(t *testing.T, n *lab.Node, prepare ...string) *cage {
	t.Helper()
	script := append([]string{"set -e", "mount -t tmpfs none /run", "mount -t tmpfs none /var/lib"}, prepare...)
	cmd := exec.Command("unshare", "-m", "sh", "-c", strings.Join(append(script, "echo ready", "exec cat"), "\n"))
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	var errs strings.Builder
	cmd.Stderr = &errs
	must(t, n.Start(cmd))
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("mounts of our own: %v: %s", err, errs.String())
	}
	return &cage{n, t, strconv.Itoa(cmd.Process.Pid)}
}

// try runs a command in the cage.
func (c *cage) try(stdin string, command ...string) (string, error) {
	cmd := exec.Command("nsenter", append([]string{"-m", "-t", c.pid}, command...)...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := c.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s%s", strings.Join(command, " "), err, out.String(), errs.String())
	}
	return out.String(), err
}

// do runs a command that must succeed.
func (c *cage) do(stdin string, command ...string) string {
	c.t.Helper()
	out, err := c.try(stdin, command...)
	must(c.t, err)
	return out
}
