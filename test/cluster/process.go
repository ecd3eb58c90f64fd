package cluster

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

// process is one daemon of the cluster. It ends with the process that started it.
type process struct {
	name, log string
	cmd       *exec.Cmd
	ended     chan error
}

// start starts a daemon whose output goes to the end of a file.
func start(name, log string, cmd *exec.Cmd) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// Ctrl-C is for the one who decides in which order they end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, ended: make(chan error, 1)}
	go func() { p.ended <- cmd.Wait() }() // end waits for it
	return p, nil
}

// alive says whether nobody has ended it yet, itself included.
func (p *process) alive() bool { return len(p.ended) == 0 }

// end signals a daemon and waits for its end, for a minute before it is killed.
func (p *process) end(sig syscall.Signal) error {
	if p == nil {
		return nil
	}
	if !p.alive() {
		return fmt.Errorf("%s has ended by itself: %w\n%s", p.name, <-p.ended, tail(p.log))
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.name, err)
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(time.Minute):
		err := fmt.Errorf("%s does not end by %v\n%s", p.name, sig, tail(p.log))
		return errors.Join(err, p.cmd.Process.Kill(), <-p.ended)
	}
}

// await asks until ask succeeds, the context or the daemon ends.
func (p *process) await(ctx context.Context, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if !p.alive() {
			ended := <-p.ended
			p.ended <- ended
			return fmt.Errorf("%s has ended: %w\n%s", p.name, ended, tail(p.log))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w\n%s", p.name, ctx.Err(), err, tail(p.log))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tail is the end of a log.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// run runs a program to its end.
func run(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
