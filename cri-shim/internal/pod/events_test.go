package pod

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

// told reads the events that have come.
func told(events <-chan Event) (out []Event) {
	for {
		select {
		case e := <-events:
			out = append(out, e)
		default:
			return out
		}
	}
}

func kinds(events []Event, id ID) (out []EventKind) {
	for _, e := range events {
		if e.ID == id {
			out = append(out, e.Kind)
		}
	}
	return out
}

var wholeLife = []EventKind{EventCreated, EventStarted, EventStopped, EventDeleted}

func TestEventsOfALife(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	first, _, cancel1 := m.Subscribe()
	second, _, cancel2 := m.Subscribe()
	defer cancel1()
	if err := story(m); err != nil {
		t.Fatal(err)
	}
	events := told(first)
	ids := map[ID]bool{}
	for _, e := range events {
		ids[e.ID] = true
		if e.At.IsZero() || e.Sandbox.Config.Name != "a" {
			t.Errorf("%s without its pod: %+v", e.Kind, e)
		}
		if e.Kind == EventStopped && e.ID != e.Sandbox.ID && (len(e.Containers) != 1 || e.Containers[0].State != Exited) {
			t.Errorf("stopped with containers %+v", e.Containers)
		}
	}
	for id := range ids {
		if got := kinds(events, id); !slices.Equal(got, wholeLife) {
			t.Errorf("%s: %v", id, got)
		}
	}
	if len(ids) != 2 || len(told(second)) != len(events) {
		t.Errorf("%d ids; the second subscriber differs", len(ids))
	}
	cancel2()
	if err := story(m); err != nil {
		t.Fatal(err)
	}
	if len(told(second)) != 0 || len(told(first)) != len(events) {
		t.Error("after cancel")
	}
}

func TestContainerEvents(t *testing.T) {
	for _, c := range []struct {
		was, now State
		reason   string
		want     []EventKind
	}{
		{Creating, Created, "", []EventKind{EventCreated}},
		{Created, Starting, "", nil},
		{Starting, Running, "", []EventKind{EventStarted}},
		{Starting, Exited, "Completed", []EventKind{EventStarted, EventStopped}},
		{Starting, Exited, reasonStartError, []EventKind{EventStopped}},
		{Starting, Created, "", nil},
		{Created, Exited, "Error", []EventKind{EventStopped}},
		{Running, Exited, "Error", []EventKind{EventStopped}},
		{Running, Running, "", nil},
		{Exited, Removing, "", nil},
	} {
		if got := containerEvents(Container{State: c.was}, Container{State: c.now, Reason: c.reason}); !slices.Equal(got, c.want) {
			t.Errorf("%s to %s: %v, want %v", c.was, c.now, got, c.want)
		}
	}
}

// TestEventsOfForcedRemoval: a container that is killed by its removal has stopped all the same, and one whose
// creation failed was never there.
func TestEventsOfForcedRemoval(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModePod))
	if err != nil {
		t.Fatal(err)
	}
	events, _, cancel := m.Subscribe()
	defer cancel()
	id, err := m.CreateContainer(t.Context(), string(s), containerConfig("c"))
	if err == nil {
		err = m.StartContainer(t.Context(), string(id))
	}
	if err == nil {
		err = m.RemoveContainer(t.Context(), string(id))
	}
	if got := kinds(told(events), id); err != nil || !slices.Equal(got, wholeLife) {
		t.Errorf("got %v, %v", got, err)
	}
	w.set(func() { w.fail["prepare"] = errCrash })
	if _, err := m.CreateContainer(t.Context(), string(s), containerConfig("d")); err == nil {
		t.Error("no error")
	}
	if got := told(events); len(got) != 0 {
		t.Errorf("of one that was never made: %v", got)
	}
	w.set(func() { delete(w.fail, "prepare") })
}

// TestRemovalThatFails: what it has killed is shown as ended, or a kubelet would stop it for ever, and never remove it.
func TestRemovalThatFails(t *testing.T) {
	w := newWorld()
	m, _, c := running(t, w)
	events, _, cancel := m.Subscribe()
	defer cancel()
	w.set(func() { w.fail["remove bundle"] = errors.New("busy") })
	for range 2 {
		if err := m.RemoveContainer(t.Context(), string(c)); err == nil {
			t.Fatal("it was removed")
		}
	}
	if rec, err := m.Container(string(c)); err != nil || rec.Exit.Code != 137 || rec.Exit.FinishedAt.IsZero() {
		t.Errorf("it ended with %+v, %v", rec.Exit, err)
	}
	w.set(func() { delete(w.fail, "remove bundle") })
	if err := m.RemoveContainer(t.Context(), string(c)); err != nil {
		t.Fatal(err)
	}
	if got := kinds(told(events), c); !slices.Equal(got, []EventKind{EventStopped, EventDeleted}) {
		t.Errorf("told: %v", got)
	}
}

// TestEventsShowNothingHalfMade: what no list shows, no event does.
func TestEventsShowNothingHalfMade(t *testing.T) {
	w := newWorld()
	m, s, c := running(t, w)
	events, _, cancel := m.Subscribe()
	defer cancel()
	gate := make(chan struct{})
	w.set(func() { w.block["prepare"] = gate })
	made := make(chan error, 1)
	go func() {
		_, err := m.CreateContainer(t.Context(), string(s), containerConfig("d"))
		made <- err
	}()
	for len(m.table.view.Load().containers) == 1 {
		time.Sleep(time.Millisecond)
	}
	w.end(c, Exit{})
	for _, e := range told(events) {
		if len(e.Containers) != 1 {
			t.Errorf("%s shows %+v", e.Kind, e.Containers)
		}
	}
	close(gate)
	if err := <-made; err != nil {
		t.Error(err)
	}
}

// TestDeafSubscriber: it is cut off, nobody waits for it, and others lose nothing.
func TestDeafSubscriber(t *testing.T) {
	f := newFeed(time.Now)
	m := &Manager{table: &table{events: f}}
	_, lost, cancel := m.Subscribe()
	good, goodLost, cancelGood := m.Subscribe()
	defer cancelGood()
	const n = maxWaiting + 50
	var wg sync.WaitGroup
	got := 0
	ctx, stop := context.WithCancel(t.Context())
	wg.Go(func() {
		for got < n {
			select {
			case <-good:
				got++
			case <-ctx.Done():
				return
			}
		}
	})
	for i := range n {
		f.tell(Event{})
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	time.AfterFunc(10*time.Second, stop)
	wg.Wait()
	stop()
	select {
	case <-lost:
	default:
		t.Error("the deaf one was not cut off")
	}
	select {
	case <-goodLost:
		t.Error("the good one was cut off")
	default:
	}
	if got != n {
		t.Errorf("the good one got %d of %d", got, n)
	}
	cancel()
}
