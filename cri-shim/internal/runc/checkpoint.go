package runc

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// CRIU says where CRIU works. Config is a file of its options that are not the runtime's to know (criu(8),
// CONFIGURATION FILES): what the administrator wrote for the runtime into /etc/criu holds beside it.
type CRIU struct {
	Config string
	Images string // what it writes, or reads
	Work   string // its log
}

// withConfig hands the file over in the environment. CRIU reads a file that is named in a request twice, and cannot
// take over one descriptor twice.
func (r Runtime) withConfig(file string) Runtime {
	r.env = append(r.env, "CRIU_CONFIG_FILE="+file)
	return r
}

// Checkpoint writes the processes of a container into c.Images. They run on, or stay frozen.
func (r Runtime) Checkpoint(ctx context.Context, id string, c CRIU) error {
	err := r.withConfig(c.Config).command(ctx, IO{}, "checkpoint", "--leave-running", "--file-locks",
		"--image-path", c.Images, "--work-path", c.Work, id)
	return c.explain(err, "dump.log")
}

// Restore makes the container id from bundle and lets the processes in c.Images go on in it, detached. It returns the
// pid of the first one; what cannot be restored is ErrStart.
func (r Runtime) Restore(ctx context.Context, id, bundle string, c CRIU, io IO) (int, error) {
	pidFile := bundle + "/pid"
	args := []string{"restore", "--detach", "--file-locks", "--bundle", bundle, "--pid-file", pidFile, "--image-path", c.Images, "--work-path", c.Work}
	if io.Console != "" {
		args = append(args, "--console-socket", io.Console)
	}
	pid, err := r.withConfig(c.Config).detached(ctx, append(args, id), pidFile, io)
	return pid, c.explain(err, "restore.log")
}

// explain adds what CRIU itself said: the runtime only says that it failed.
func (c CRIU) explain(err error, log string) error {
	if err == nil {
		return nil
	}
	f, openErr := os.Open(filepath.Join(c.Work, log))
	if openErr != nil {
		return err
	}
	defer f.Close()
	const most = 3
	var said []string
	for lines := bufio.NewScanner(f); lines.Scan() && len(said) < most; {
		if _, text, ok := strings.Cut(lines.Text(), "Error "); ok {
			said = append(said, fmt.Sprintf("%.300s", text))
		}
	}
	if len(said) == 0 {
		return err
	}
	return fmt.Errorf("%w: CRIU: %s", err, strings.Join(said, "; "))
}

// Pause freezes the processes of a container.
func (r Runtime) Pause(ctx context.Context, id string) error {
	return r.command(ctx, IO{}, "pause", id)
}

// Resume thaws them.
func (r Runtime) Resume(ctx context.Context, id string) error {
	return r.command(ctx, IO{}, "resume", id)
}
