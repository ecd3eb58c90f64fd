// Package proc starts processes and watches them end. One Reaper owns every child of this process, also
// the orphans that a child subreaper inherits, so that no exit is missed and no zombie stays. It never polls.
//
// Crash story: none of its state outlives the process. What ran goes on; a successor follows it by pidfd.
package proc

import (
	"errors"
	"fmt"
	"maps"
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
	early   map[int]early       // guarded by mu; ends of children that nobody waits for yet
	births  map[uint64]bool     // guarded by mu; those that are not over
	last    uint64              // guarded by mu; number of the last birth
	done    chan struct{}
	sigs    chan os.Signal
}

// NewReaper makes this process a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) and begins to wait.
func NewReaper() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become a child subreaper: %w", err)
	}
	r := &Reaper{waiting: map[int]chan Status{}, early: map[int]early{}, births: map[uint64]bool{}, done: make(chan struct{}), sigs: make(chan os.Signal, 1)}
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
		r.end(pid, statusOf(ws))
	}
}

// end hands on an end. That of an orphan is remembered while somebody may still adopt it: a container can end before
// the runtime's pid file is read.
func (r *Reaper) end(pid int, s Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ch, ok := r.waiting[pid]; ok {
		ch <- s // one slot, one end
		delete(r.waiting, pid)
	} else if len(r.births) > 0 {
		r.early[pid] = early{s, r.last}
	}
}

// early is an end that nobody waits for yet.
type early struct {
	status Status
	births uint64 // how many were announced before it
}

// Birth is the time in which a child of ours leaves an orphan to Adopt.
type Birth struct {
	r *Reaper
	n uint64
}

// Expecting announces a birth, until Done.
func (r *Reaper) Expecting() *Birth {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	r.births[r.last] = true
	return &Birth{r, r.last}
}

// Done forgets the ends that nobody can adopt any more. It may be repeated.
func (b *Birth) Done() {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.births, b.n)
	oldest := r.last + 1
	for n := range r.births {
		oldest = min(oldest, n)
	}
	maps.DeleteFunc(r.early, func(_ int, e early) bool { return e.births < oldest })
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

// Adopt waits for a child that somebody else started for us and that became ours as an orphan. An end from before the
// birth was of another process with its pid.
func (b *Birth) Adopt(pid int) <-chan Status {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.early[pid]; ok && e.births >= b.n {
		delete(r.early, pid)
		ch := make(chan Status, 1)
		ch <- e.status
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
