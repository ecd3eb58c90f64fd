package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
	"github.com/podwright/podwright/cri-shim/internal/proc"
	"github.com/podwright/podwright/cri-shim/internal/runc"
)

// container is one container from Start to Delete.
type container struct {
	s   *Server
	rec record // fixed once begun is closed

	begun chan struct{} // closed when the start has come about, or failed
	ended chan struct{} // closed when the end is on disk and told

	life sync.Mutex // one Delete at a time; taken before mu

	icebox chan struct{} // holds one while somebody's Freeze has the container, until it goes on again

	mu     sync.Mutex
	fault  error        // guarded by mu; why the start failed
	handle *proc.Handle // guarded by mu; nil before the start and after the end
	io     *stdio       // guarded by mu; nil before the start and after the end
	end    *ending      // guarded by mu
}

func newContainer(s *Server, r record) *container {
	return &container{s: s, rec: r, begun: make(chan struct{}), ended: make(chan struct{}), icebox: make(chan struct{}, 1)}
}

// start runs the container's process. The record is on disk before the OCI runtime runs.
func (c *container) start(ctx context.Context, rt runc.Runtime) (err error) {
	defer close(c.begun)
	defer func() {
		if err != nil {
			c.mu.Lock()
			c.fault = err
			c.mu.Unlock()
		}
	}()
	if err := write(c.s.files.containerFile(c.rec.ID), c.rec); err != nil {
		return fmt.Errorf("record container %s: %w", c.rec.ID, err)
	}
	// Crash from here on: the next monitor asks the runtime what came of it.
	io := &stdio{log: crilog.New(c.rec.log(), time.Now)}
	if err := io.log.Open(); err != nil {
		return err
	}
	birth := c.s.reaper.Expecting()
	defer birth.Done()
	pid, err := c.run(ctx, rt, io)
	if err != nil {
		io.finish()
		return err
	}
	c.watchMemory()
	exited := birth.Adopt(pid)
	st, err := proc.ReadStat(pid)
	if err != nil && !errors.Is(err, proc.ErrGone) {
		return err
	}
	c.rec.PID, c.rec.StartTick, c.rec.StartedAt = pid, st.Start, time.Now()
	if err := write(c.s.files.containerFile(c.rec.ID), c.rec); err != nil {
		c.s.log.Error("record a started container", "container", c.rec.ID, "err", err)
	}
	handle, err := proc.Open(pid, st.Start)
	if err != nil && !errors.Is(err, proc.ErrGone) {
		return err
	}
	c.mu.Lock()
	c.handle, c.io = handle, io
	c.mu.Unlock()
	c.s.work.Go(func() { c.finish(<-exited, false) })
	return nil
}

// run calls the OCI runtime with the container's ends of its streams, and follows ours.
func (c *container) run(ctx context.Context, rt runc.Runtime, io *stdio) (int, error) {
	if c.rec.TTY {
		return c.runTerminal(ctx, rt, io)
	}
	ends, err := makeFIFOs(c.rec)
	if err != nil {
		return 0, err
	}
	defer closeIO(ends)
	if err := io.follow(c.rec); err != nil {
		return 0, err
	}
	return c.bring(ctx, rt, ends)
}

func (c *container) runTerminal(ctx context.Context, rt runc.Runtime, io *stdio) (int, error) {
	// A unix socket's path has 107 bytes: it lives in the monitor's directory, under a short name.
	con, err := listenConsole(filepath.Join(c.s.files.dir, "c"+c.rec.ID[:min(16, len(c.rec.ID))]))
	if err != nil {
		return 0, err
	}
	defer con.close()
	pid, err := c.bring(ctx, rt, runc.IO{Console: con.path})
	if err != nil {
		return 0, err
	}
	master, err := con.receive()
	if err != nil {
		return 0, err
	}
	return pid, io.pump(c.rec, crilog.Stdout, master)
}

// watchMemory: a container of which we do not learn why it was killed still runs.
func (c *container) watchMemory() {
	cg, err := c.s.cgroups.cgroupOf(c.rec.Bundle)
	if err == nil {
		err = c.s.oom.add(cg)
	}
	if err != nil {
		c.s.log.Warn("watch the memory of a container", "container", c.rec.ID, "err", err)
	}
}

// finish takes the end of the first process. It is on disk at once: what follows may take long, and we may be killed.
func (c *container) finish(st proc.Status, lost bool) {
	e := ending{Code: st.Code, Signal: st.Signal, Lost: lost, Open: true, FinishedAt: time.Now()}
	if lost {
		e.Code = 255
	}
	if cg, err := c.s.cgroups.cgroupOf(c.rec.Bundle); err == nil {
		kills, _ := cg.oomKills()
		e.OOMKilled = c.s.oom.forget(cg, st.Signal == int32(unix.SIGKILL)) || kills > 0
	}
	if err := write(c.s.files.exitFile(c.rec.ID), e); err != nil {
		c.s.log.Error("record the end of a container", "container", c.rec.ID, "err", err)
	}
	// Crash from here on: the next monitor closes it.
	c.close(e)
}

// close ends what a container has left, logs what is left to log, and tells of its end.
func (c *container) close(e ending) {
	e.Open = false
	if cg, err := c.s.cgroups.cgroupOf(c.rec.Bundle); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := cg.kill(ctx); err != nil {
			c.s.log.Warn("end what a container left", "container", c.rec.ID, "err", err)
		}
		cancel()
	}
	c.mu.Lock()
	io, handle := c.io, c.handle
	c.mu.Unlock()
	if io != nil {
		io.finish()
	}
	if err := write(c.s.files.exitFile(c.rec.ID), e); err != nil {
		c.s.log.Error("record the end of a container", "container", c.rec.ID, "err", err)
	}
	c.mu.Lock()
	c.end, c.io, c.handle = &e, nil, nil
	c.mu.Unlock()
	if handle != nil {
		_ = handle.Close()
	}
	close(c.ended)
	c.s.tell()
}

// adopt takes over a container of a monitor before us.
func (c *container) adopt(ctx context.Context, rt runc.Runtime) (err error) {
	defer close(c.begun)
	defer func() {
		if err != nil && c.fault == nil {
			c.fault = err // nobody follows it: it can be killed and removed, and no more
		}
	}()
	var e ending
	switch err := read(c.s.files.exitFile(c.rec.ID), &e); {
	case err == nil && e.Open:
		c.followQuietly()
		c.s.work.Go(func() { c.close(e) })
		return nil
	case err == nil:
		c.end = &e
		close(c.ended)
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		c.s.log.Error("read the end of a container", "container", c.rec.ID, "err", err)
	}
	if c.rec.PID == 0 {
		if done, err := c.adoptUnborn(ctx, rt); done {
			return err
		}
	}
	handle, err := proc.Open(c.rec.PID, c.rec.StartTick)
	if errors.Is(err, proc.ErrGone) {
		c.followQuietly()
		c.finish(proc.Status{}, true)
		return nil
	}
	if err != nil {
		return err
	}
	c.followQuietly()
	c.watchMemory()
	c.endOrphans(ctx)
	c.mu.Lock()
	c.handle = handle
	c.mu.Unlock()
	if err := c.thaw(ctx, rt); err != nil {
		c.s.log.Error("adopt a frozen container", "container", c.rec.ID, "err", err)
	}
	c.s.work.Go(func() {
		if err := handle.Wait(); err != nil {
			return // the monitor ends
		}
		st, err := handle.ExitStatus()
		if err != nil {
			c.s.log.Warn("exit status of an adopted container", "container", c.rec.ID, "err", err)
		}
		c.finish(st, err != nil)
	})
	return nil
}

// adoptUnborn finds out what came of a start that a crash cut off. done: nothing is left to adopt.
func (c *container) adoptUnborn(ctx context.Context, rt runc.Runtime) (done bool, err error) {
	pid, err := rt.Pid(ctx, c.rec.ID)
	if errors.Is(err, errdefs.ErrNotFound) || (err == nil && pid == 0) {
		c.fault = fmt.Errorf("the monitor died while the container was started: %w", errdefs.ErrUnavailable)
		return true, nil
	}
	if err != nil {
		return true, err
	}
	st, err := proc.ReadStat(pid)
	if err != nil && !errors.Is(err, proc.ErrGone) {
		return true, err
	}
	c.rec.PID, c.rec.StartTick, c.rec.StartedAt = pid, st.Start, time.Now()
	return false, write(c.s.files.containerFile(c.rec.ID), c.rec)
}

// followQuietly goes on logging; a container whose output cannot be followed still runs.
func (c *container) followQuietly() {
	if c.rec.TTY {
		return
	}
	c.io = &stdio{log: crilog.New(c.rec.log(), time.Now)}
	// A container whose log cannot be opened loses lines, until ReopenLog, instead of being stopped by a full FIFO.
	if err := errors.Join(c.io.log.Open(), c.io.follow(c.rec)); err != nil {
		c.s.log.Error("follow the output of an adopted container", "container", c.rec.ID, "err", err)
	}
}

// failed says whether its start, or its adoption, has failed.
func (c *container) failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault != nil
}

// running waits for a start in flight and says what came of it.
func (c *container) running(ctx context.Context) error {
	select {
	case <-c.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != nil {
		return c.fault
	}
	return nil
}

func (c *container) signal(name string) error {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return fmt.Errorf("signal %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle == nil {
		return nil
	}
	return c.handle.Signal(sig)
}

// kill ends all processes of the container and returns when its end is on disk.
func (c *container) kill(ctx context.Context) error {
	c.mu.Lock()
	handle, fault, over := c.handle, c.fault, c.end != nil
	if handle != nil {
		_ = handle.Signal(unix.SIGKILL)
	}
	c.mu.Unlock()
	if over {
		return nil
	}
	cg, err := c.s.cgroups.cgroupOf(c.rec.Bundle)
	if err == nil {
		err = cg.kill(ctx)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if fault != nil {
		return nil
	}
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill container %s: %w", c.rec.ID, ctx.Err())
	}
}

// remove makes everybody forget the container.
func (c *container) remove(ctx context.Context, rt runc.Runtime) error {
	c.life.Lock()
	defer c.life.Unlock()
	if err := c.kill(ctx); err != nil {
		return err
	}
	if err := rt.Delete(ctx, c.rec.ID); err != nil {
		return err
	}
	if err := removeFIFOs(c.rec.Bundle); err != nil {
		return err
	}
	return c.s.files.forget(c.rec.ID)
}

func (c *container) reopenLog() error {
	c.mu.Lock()
	io := c.io
	c.mu.Unlock() // a disk may hang
	if io == nil {
		return fmt.Errorf("container %s is not running: %w", c.rec.ID, errdefs.ErrFailedPrecondition)
	}
	err := io.log.Reopen()
	if errors.Is(err, fs.ErrClosed) {
		err = fmt.Errorf("container %s has just ended: %w: %w", c.rec.ID, err, errdefs.ErrFailedPrecondition)
	}
	return err
}
