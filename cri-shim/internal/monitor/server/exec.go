package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/proc"
	"github.com/podwright/podwright/cri-shim/internal/runc"
)

// maxOutput is how much of the outputs of a command is kept; the rest is read and dropped. All of it must fit into one
// answer: ttrpc takes 4 MiB, and gives up the connection, with everybody's calls, for one that is larger.
const maxOutput = 4<<20 - 64<<10

// fit cuts outputs so that they fit together. Errors are the last to go.
func fit(stdout, stderr []byte) ([]byte, []byte) {
	return stdout[:min(len(stdout), maxOutput-len(stderr))], stderr
}

// output collects one output of a command.
type output struct {
	f    *os.File
	data []byte
	done chan struct{}
}

func newOutput() (*output, *os.File, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	_ = unix.SetNonblock(fds[0], true)
	o := &output{f: os.NewFile(uintptr(fds[0]), "output"), done: make(chan struct{})}
	return o, os.NewFile(uintptr(fds[1]), "output"), nil
}

func (o *output) collect() {
	defer close(o.done)
	buf := make([]byte, 32*1024)
	for {
		n, err := o.f.Read(buf)
		o.data = append(o.data, buf[:min(n, maxOutput-len(o.data))]...)
		if err != nil {
			return
		}
	}
}

// finish returns what was written up to now. A child of the command that goes on holding the pipe is not
// waited for: what the command itself wrote is in the pipe already.
func (o *output) finish() []byte {
	_ = o.f.SetReadDeadline(time.Unix(1, 0))
	<-o.done
	if conn, err := o.f.SyscallConn(); err == nil {
		buf := make([]byte, 32*1024)
		_ = conn.Control(func(fd uintptr) {
			for {
				n, err := unix.Read(int(fd), buf)
				if errors.Is(err, unix.EINTR) {
					continue
				}
				if n <= 0 {
					return
				}
				o.data = append(o.data, buf[:min(n, maxOutput-len(o.data))]...)
			}
		})
	}
	_ = o.f.Close()
	return o.data
}

// alive is nil while the container runs.
func (c *container) alive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle == nil {
		return fmt.Errorf("container %s is not running: %w", c.rec.ID, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// exec runs cmd in the container and waits for its end.
func (c *container) exec(ctx context.Context, rt runc.Runtime, cmd []string, timeout time.Duration) (stdout, stderr []byte, code int32, err error) {
	if err := c.alive(); err != nil {
		return nil, nil, 0, err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	spec, err := c.processSpec(cmd, false)
	if err != nil {
		return nil, nil, 0, err
	}
	defer removeSpec(spec)
	out, outW, err := newOutput()
	if err != nil {
		return nil, nil, 0, err
	}
	errOut, errW, err := newOutput()
	if err != nil {
		_ = outW.Close()
		_ = out.f.Close()
		return nil, nil, 0, err
	}
	go out.collect() // ended and waited for by finish
	go errOut.collect()
	status, err := c.execute(ctx, rt, spec, runc.IO{Stdout: outW, Stderr: errW})
	stdout, stderr = fit(out.finish(), errOut.finish())
	return stdout, stderr, status.Code, err
}

// execute starts the process and waits for its end; when ctx ends first, it ends what was started, once it was.
func (c *container) execute(ctx context.Context, rt runc.Runtime, spec string, io runc.IO) (proc.Status, error) {
	pid, exited, err := c.launch(ctx, rt, spec, io)
	if err != nil {
		return proc.Status{}, err
	}
	return c.await(ctx, pid, exited)
}

// launchLimit is how long the OCI runtime may take to start a command. A caller that leaves, or whose time is over,
// does not cut it off: killed in the middle, it could leave a process that nobody knows.
const launchLimit = time.Minute

// launch starts the process of a command and closes our copies of its streams.
func (c *container) launch(ctx context.Context, rt runc.Runtime, spec string, io runc.IO) (int, <-chan proc.Status, error) {
	if err := ctx.Err(); err != nil {
		closeIO(io)
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), launchLimit)
	defer cancel()
	birth := c.s.reaper.Expecting()
	defer birth.Done()
	pid, err := rt.Exec(ctx, c.rec.ID, spec, io)
	closeIO(io)
	if err != nil {
		return 0, nil, err
	}
	if err := noteStart(spec, pid); err != nil {
		c.s.log.Warn("note the start of a command", "container", c.rec.ID, "pid", pid, "err", err)
	}
	return pid, birth.Adopt(pid), nil
}

// await waits for the end of a command; when ctx ends first, it ends the command and all it started.
func (c *container) await(ctx context.Context, pid int, exited <-chan proc.Status) (proc.Status, error) {
	select {
	case st := <-exited:
		return st, nil
	case <-ctx.Done():
	}
	killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := c.killFamily(killCtx, pid); err != nil {
		c.s.log.Warn("end a command", "container", c.rec.ID, "pid", pid, "err", err)
	}
	<-exited
	return proc.Status{}, fmt.Errorf("command in container %s: %w", c.rec.ID, ctx.Err())
}

// killFamily ends a command and all it started: its descendants, and what shares its session, which the
// OCI runtime makes new for each command.
func (c *container) killFamily(ctx context.Context, pid int) error {
	cg, err := c.s.cgroups.cgroupOf(c.rec.Bundle)
	if err != nil {
		return killAll(ctx, []int{pid})
	}
	family := map[int]bool{pid: true}
	for {
		pids, err := cg.pids()
		if err != nil {
			return err
		}
		var targets []int
		for grown := true; grown; {
			grown = false
			for _, p := range pids {
				st, err := proc.ReadStat(p)
				if err != nil || st.Zombie || p == c.rec.PID || slices.Contains(targets, p) {
					continue
				}
				if family[p] || family[st.Parent] || st.Session == pid {
					family[p] = true
					targets = append(targets, p)
					grown = true
				}
			}
		}
		if len(targets) == 0 {
			return nil
		}
		if err := killAll(ctx, targets); err != nil {
			return err
		}
	}
}

// processSpec writes the OCI process of a command: the container's own, with other arguments.
func (c *container) processSpec(cmd []string, terminal bool) (string, error) {
	if len(cmd) == 0 || cmd[0] == "" {
		return "", fmt.Errorf("cmd is empty, must name a command: %w", errdefs.ErrInvalidArgument)
	}
	f, err := os.Open(filepath.Join(c.rec.Bundle, "config.json"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	var spec struct {
		Process *specs.Process `json:"process"`
	}
	if err := json.NewDecoder(io.LimitReader(f, 16<<20)).Decode(&spec); err != nil || spec.Process == nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	spec.Process.Args, spec.Process.Terminal, spec.Process.ConsoleSize = cmd, terminal, nil
	if terminal && !slices.ContainsFunc(spec.Process.Env, func(v string) bool { return strings.HasPrefix(v, "TERM=") }) {
		spec.Process.Env = append(spec.Process.Env, "TERM=xterm")
	}
	out, err := os.CreateTemp(c.rec.Bundle, specForm)
	if err != nil {
		return "", err
	}
	err = errors.Join(json.NewEncoder(out).Encode(spec.Process), out.Close())
	if err != nil {
		_ = os.Remove(out.Name())
	}
	return out.Name(), err
}
