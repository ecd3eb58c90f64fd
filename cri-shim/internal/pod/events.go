package pod

import (
	"slices"
	"sync"
	"time"
)

// EventKind says what has happened, in the words of the CRI.
type EventKind string

// What happens to containers and sandboxes.
const (
	EventCreated EventKind = "created"
	EventStarted EventKind = "started"
	EventStopped EventKind = "stopped"
	EventDeleted EventKind = "deleted"
)

// Event is one change, and how the pod stood right after it.
type Event struct {
	Kind       EventKind
	ID         ID // of the container, or of the sandbox itself
	At         time.Time
	Sandbox    Sandbox
	Containers []Container // all of the sandbox
}

// maxWaiting is how many events wait for one subscriber. A kubelet reads in microseconds; who lets so many
// wait does not read.
const maxWaiting = 1000

// feed hands events to subscribers. It never waits for one: whoever does not keep up is cut off.
type feed struct {
	now func() time.Time

	mu          sync.Mutex
	subscribers map[*subscriber]struct{} // guarded by mu
}

type subscriber struct {
	events chan Event
	lost   chan struct{} // closed when it was cut off
}

func newFeed(now func() time.Time) *feed {
	return &feed{now: now, subscribers: map[*subscriber]struct{}{}}
}

// Subscribe returns the events from now on, until cancel is called. A subscriber that does not keep up is cut
// off: lost is closed, and no more events come.
func (m *Manager) Subscribe() (events <-chan Event, lost <-chan struct{}, cancel func()) {
	f, s := m.table.events, &subscriber{make(chan Event, maxWaiting), make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscribers[s] = struct{}{}
	return s.events, s.lost, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subscribers, s)
	}
}

func (f *feed) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subscribers) == 0
}

func (f *feed) tell(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subscribers {
		select {
		case s.events <- e:
		default:
			delete(f.subscribers, s)
			close(s.lost)
		}
	}
}

// tell sends events about id with the pod as it stands. It costs nothing while nobody listens.
func (t *table) tell(id ID, s Sandbox, kinds ...EventKind) {
	if len(kinds) == 0 || t.events.idle() {
		return
	}
	containers := slices.DeleteFunc(t.containersOf(s.ID), func(c Container) bool { return !c.visible() })
	for _, kind := range kinds {
		t.events.tell(Event{Kind: kind, ID: id, At: t.events.now(), Sandbox: s, Containers: containers})
	}
}

func (t *table) tellContainer(was, now Container) {
	s, _ := t.sandbox(now.SandboxID)
	t.tell(now.ID, s, containerEvents(was, now)...)
}

func (t *table) tellContainerGone(was Container) {
	var kinds []EventKind
	switch {
	case !was.visible() || was.Effective.StopSignal == "":
		return // it was never complete, and nobody was told of it
	case !was.StartedAt.IsZero() && was.Exit.FinishedAt.IsZero():
		kinds = []EventKind{EventStopped} // killed by its removal
	}
	s, _ := t.sandbox(was.SandboxID)
	t.tell(was.ID, s, append(kinds, EventDeleted)...)
}

func (t *table) tellSandbox(was, now Sandbox) { t.tell(now.ID, now, sandboxEvents(was, now)...) }

func (t *table) tellSandboxGone(was Sandbox) {
	if was.ID != "" && was.visible() {
		t.tell(was.ID, was, EventDeleted)
	}
}

// containerEvents is what a move of a container means to a listener. One whose end is seen before its start
// has come back was started all the same; one that could not be started was not.
func containerEvents(was, now Container) []EventKind {
	switch {
	case now.State == Removing && was.State == Removing && was.Exit != now.Exit:
		return []EventKind{EventStopped} // killed by a removal that goes no further
	case was.State == now.State:
	case now.State == Created && was.State == Creating:
		return []EventKind{EventCreated}
	case now.State == Running:
		return []EventKind{EventStarted}
	case now.State == Exited && was.State == Starting && now.Reason != reasonStartError:
		return []EventKind{EventStarted, EventStopped}
	case now.State == Exited:
		return []EventKind{EventStopped}
	}
	return nil
}

// sandboxEvents: a sandbox is made and started in one step.
func sandboxEvents(was, now Sandbox) []EventKind {
	switch {
	case now.State == Ready && was.State == Creating:
		return []EventKind{EventCreated, EventStarted}
	case was.State == Ready && now.State != Ready:
		return []EventKind{EventStopped}
	}
	return nil
}
