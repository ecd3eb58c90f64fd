// Package proc starts processes and watches them end. One Reaper owns every child of this process, also
// the orphans that a child subreaper inherits, so that no exit is missed and no zombie stays. It never polls.
//
// Crash story: none of its state outlives the process. What ran goes on; a successor follows it by pidfd.
package proc

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Status is how a process ended.
type Status struct {
	Code   int32 // 0…255; 128+n when signal n ended it
	Signal int32 // 0 when it exited by itself
}

func statusOf(ws syscall.WaitStatus) Status {
	if ws.Signaled() {
		return Status{Code: 128 + int32(ws.Signal()), Signal: int32(ws.Signal())}
	}
	return Status{Code: int32(ws.ExitStatus())}
}

// Reaper waits for children. Use one per process.
type Reaper struct {
	mu      sync.Mutex
	waiting map[int]chan Status // guarded by mu
	early   map[int]Status      // guarded by mu; ends of children that nobody waits for yet
	births  int                 // guarded by mu; starts whose orphan is not adopted yet
	done    chan struct{}
	sigs    chan os.Signal
}

// NewReaper makes this process a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) and begins to wait.
func NewReaper() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become a child subreaper: %w", err)
	}
	r := &Reaper{waiting: map[int]chan Status{}, early: map[int]Status{}, done: make(chan struct{}), sigs: make(chan os.Signal, 1)}
	signal.Notify(r.sigs, unix.SIGCHLD)
	go r.run()
	return r, nil
}

// Close stops waiting. Children go on.
func (r *Reaper) Close() {
	signal.Stop(r.sigs)
	close(r.sigs)
	<-r.done
}

func (r *Reaper) run() {
	defer close(r.done)
	for range r.sigs {
		r.reap()
	}
}

func (r *Reaper) reap() {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		r.mu.Lock()
		if ch, ok := r.waiting[pid]; ok {
			ch <- statusOf(ws) // one slot, one end
			delete(r.waiting, pid)
		} else {
			r.keepEarly(pid, statusOf(ws))
		}
		r.mu.Unlock()
	}
}

// keepEarly remembers the end of an orphan while somebody may still adopt it: a container can end before
// the runtime's pid file is read. Otherwise it is forgotten, so that a pid used anew meets no old status.
func (r *Reaper) keepEarly(pid int, s Status) {
	if r.births > 0 {
		r.early[pid] = s
	}
}

// Expecting announces that a child is about to leave an orphan to Adopt, until the returned function is
// called.
func (r *Reaper) Expecting() func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.births++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.births--; r.births == 0 {
			clear(r.early)
		}
	})
}

// Start forks and executes argv with exactly the given files as 0, 1, 2 … and returns the pid and a channel
// that gets the status once.
func (r *Reaper) Start(argv []string, attr *syscall.ProcAttr) (int, <-chan Status, error) {
	r.mu.Lock() // the end of a child that is faster than us is seen after we wait for it
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return 0, nil, fmt.Errorf("execute %s: %w", argv[0], err)
	}
	return pid, r.expect(pid), nil
}

// Adopt waits for a child that somebody else started for us and that became ours as an orphan. Call it
// between Expecting and its end.
func (r *Reaper) Adopt(pid int) <-chan Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.early[pid]; ok {
		delete(r.early, pid)
		ch := make(chan Status, 1)
		ch <- s
		return ch
	}
	return r.expect(pid)
}

func (r *Reaper) expect(pid int) <-chan Status {
	delete(r.early, pid) // a pid that is used anew
	ch := make(chan Status, 1)
	r.waiting[pid] = ch
	return ch
}
