// Package runc runs the OCI runtime's command line (runc, crun and the like) and turns what it says into
// typed errors, here and nowhere else. It keeps no state: the runtime does, under Root.
//
// Crash story: the runtime's commands are separate processes; one that was started goes on when this process
// dies. State tells afterwards what came of it.
package runc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/proc"
)

// ErrStart is the class of a run or exec that failed because of what was to be executed.
var ErrStart = errors.New("cannot be started")

// Runtime is one OCI runtime binary with one state directory.
type Runtime struct {
	Binary        string // absolute path
	Root          string // its --root
	SystemdCgroup bool
	Reaper        *proc.Reaper
	env           []string // beside PATH
}

// IO is the standard streams of a new process; nil is /dev/null. With Console they are ignored, and the
// runtime sends the terminal's master to that unix socket.
type IO struct {
	Stdin, Stdout, Stderr *os.File
	Console               string
}

// Run creates and starts the container id from bundle, detached, and returns the pid of its first process.
// A process that cannot be executed is ErrStart.
func (r Runtime) Run(ctx context.Context, id, bundle string, io IO) (int, error) {
	pidFile := bundle + "/pid"
	defer os.Remove(pidFile)
	args := []string{"run", "--detach", "--no-new-keyring", "--bundle", bundle, "--pid-file", pidFile}
	if io.Console != "" {
		args = append(args, "--console-socket", io.Console)
	}
	return r.detached(ctx, append(args, id), pidFile, io)
}

// Exec starts the process described by the OCI process file spec in a running container, detached, and
// returns its pid, which stays in the file spec.pid.
func (r Runtime) Exec(ctx context.Context, id, spec string, io IO) (int, error) {
	pidFile := spec + ".pid"
	args := []string{"exec", "--detach", "--process", spec, "--pid-file", pidFile}
	if io.Console != "" {
		args = append(args, "--console-socket", io.Console)
	}
	return r.detached(ctx, append(args, id), pidFile, io)
}

// detached runs a command that leaves its process to us as an orphan. Call it during a proc.Birth.
func (r Runtime) detached(ctx context.Context, args []string, pidFile string, io IO) (int, error) {
	_ = os.Remove(pidFile)
	if err := r.command(ctx, io, args...); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, fmt.Errorf("read the pid file of %s: %w", r.Binary, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("pid file of %s: %q is not a pid", r.Binary, data)
	}
	return pid, nil
}

// Delete removes a container that has ended from the runtime's state; absent is success.
func (r Runtime) Delete(ctx context.Context, id string) error {
	err := r.command(ctx, IO{}, "delete", id)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}

// Pid returns the pid of the container's first process as the runtime knows it, 0 when it has ended.
// A container the runtime does not know is ErrNotFound.
func (r Runtime) Pid(ctx context.Context, id string) (int, error) {
	rd, wr, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer rd.Close()
	// The state is far smaller than a pipe's buffer, so that it can be read after the end.
	err = r.command(ctx, IO{Stdout: wr}, "state", id)
	_ = wr.Close()
	if err != nil {
		return 0, err
	}
	data, err := io.ReadAll(io.LimitReader(rd, 1<<20))
	if err != nil {
		return 0, err
	}
	var state struct {
		Pid    int    `json:"pid"`
		Status string `json:"status"`
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return 0, fmt.Errorf("state of container %s: %w", id, err)
	}
	if state.Status == "stopped" {
		return 0, nil
	}
	return state.Pid, nil
}

// command runs the runtime to its end. Its log goes through a pipe of its own, so that the container's
// standard error stays the container's.
func (r Runtime) command(ctx context.Context, files IO, args ...string) error {
	logR, logW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer logR.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_ = logW.Close()
		return err
	}
	defer null.Close()
	argv := []string{r.Binary, "--root", r.Root, "--log", "/proc/self/fd/3", "--log-format", "json"}
	if r.SystemdCgroup {
		argv = append(argv, "--systemd-cgroup")
	}
	fd := func(f *os.File) uintptr {
		if f == nil || files.Console != "" {
			return null.Fd()
		}
		return f.Fd()
	}
	pid, done, err := r.Reaper.Start(append(argv, args...), &syscall.ProcAttr{
		Env:   append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, r.env...),
		Files: []uintptr{fd(files.Stdin), fd(files.Stdout), fd(files.Stderr), logW.Fd()},
	})
	_ = logW.Close()
	if err != nil {
		return err
	}
	return r.await(ctx, pid, done, logR, args)
}

// logPatience is how long the log of a runtime that has failed may take to end.
const logPatience = 2 * time.Second

func (r Runtime) await(ctx context.Context, pid int, done <-chan proc.Status, log *os.File, args []string) error {
	messages := make(chan []string, 1)
	go func() { messages <- readLog(log) }()
	var status proc.Status
	select {
	case status = <-done:
	case <-ctx.Done():
		_ = syscall.Kill(pid, syscall.SIGKILL)
		<-done
		_ = log.Close()
		<-messages
		return fmt.Errorf("%s %s: %w", r.Binary, args[0], ctx.Err())
	}
	if status.Code == 0 {
		_ = log.Close()
		<-messages
		return nil
	}
	_ = log.SetReadDeadline(time.Now().Add(logPatience)) // a child that it left may hold the other end
	return r.classify(args[0], status, <-messages)
}

// readLog returns the error messages of a runtime's JSON log.
func readLog(r io.Reader) []string {
	var out []string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(lines.Bytes(), &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			out = append(out, entry.Msg)
		}
	}
	_, _ = io.Copy(io.Discard, r)
	return out
}

// maxText is how much is told of what the runtime said: it goes into records, events and answers of a limited size.
const maxText = 8 << 10

// classify makes an error of what the runtime said before it failed.
func (r Runtime) classify(verb string, status proc.Status, messages []string) error {
	text := strings.Join(messages, "; ")
	if text == "" {
		text = fmt.Sprintf("no message, exit code %d", status.Code)
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxText { // a command line may be in it
		text = text[:maxText] + "…"
	}
	text = strings.ToValidUTF8(text, "?")
	if verb != "run" && verb != "restore" && strings.Contains(text, r.Root+"/") && strings.Contains(text, "No such file or directory") {
		// crun's way to say that it has no state of the container
		return fmt.Errorf("oci runtime %s: %s: %w", verb, text, errdefs.ErrNotFound)
	}
	for _, k := range []struct {
		class error
		says  []string
	}{
		{errdefs.ErrNotFound, []string{"does not exist", "container not found"}},
		{errdefs.ErrFailedPrecondition, []string{"cannot exec in a stopped", "container not running", "cannot exec a container that has stopped", "cannot exec in a paused", "cannot delete container"}},
	} {
		for _, s := range k.says {
			if strings.Contains(text, s) && verb != "run" && verb != "restore" {
				return fmt.Errorf("oci runtime %s: %s: %w", verb, text, k.class)
			}
		}
	}
	if verb == "update" {
		return refusedUpdate(text)
	}
	if verb == "run" || verb == "exec" || verb == "restore" {
		return fmt.Errorf("oci runtime %s: %s: %w", verb, text, ErrStart)
	}
	return fmt.Errorf("oci runtime %s: %s", verb, text)
}
