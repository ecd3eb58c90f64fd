// Package daemon starts the long-running programs that tests need, and ends them.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Process is one running program. It is for one goroutine at a time; a nil one has ended.
type Process struct {
	Name, Log string
	cmd       *exec.Cmd
	ended     chan error // how, once it has; whoever takes it puts it back
}

// Start starts a program whose output goes to the end of a file. Unless the command says otherwise it is apart from the
// terminal, whose Ctrl-C is for the one who decides in which order programs end, and ends with the one that started it.
func Start(name, log string, cmd *exec.Cmd) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Log: log, cmd: cmd, ended: make(chan error, 1)}
	go func() { p.ended <- cmd.Wait() }() // End waits for it
	return p, nil
}

// PID is its process, 0 when it is nil.
func (p *Process) PID() int {
	if p == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Alive says whether nobody has ended it yet, itself included.
func (p *Process) Alive() bool { return p != nil && len(p.ended) == 0 }

// wait returns how it ended, once it has: an *exec.ExitError unless it was well.
func (p *Process) wait() error {
	err := <-p.ended
	p.ended <- err
	return err
}

// patience is how long a program has to end before it is killed.
const patience = time.Minute

// End signals a program and waits for its end. That it has ended by itself is an error, and so is an *exec.ExitError, unless
// the signal was what ended it.
func (p *Process) End(sig syscall.Signal) error {
	if p == nil {
		return nil
	}
	if !p.Alive() {
		return fmt.Errorf("%s has ended by itself: %w\n%s", p.Name, p.wait(), p.tail())
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.Name, err)
	}
	kill := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	err := p.wait()
	if !kill.Stop() {
		return fmt.Errorf("%s does not end by %v\n%s", p.Name, sig, p.tail())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == sig {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end %s: %w\n%s", p.Name, err, p.tail())
	}
	return nil
}

// Await asks until ask succeeds, the context or the program ends.
func (p *Process) Await(ctx context.Context, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if !p.Alive() {
			return fmt.Errorf("%s has ended: %w\n%s", p.Name, p.wait(), p.tail())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w\n%s", p.Name, ctx.Err(), err, p.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tail is the end of the log.
func (p *Process) tail() string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}
