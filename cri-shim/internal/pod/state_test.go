package pod

import (
	"context"
	"slices"
	"testing"
)

// TestMoves walks every pair of states against the table that a reader would write down.
func TestMoves(t *testing.T) {
	all := []State{Creating, Removing, Ready, NotReady, Created, Starting, Running, Exited}
	legal := map[[2]State]bool{
		{Creating, Ready}: true, {Creating, Created}: true, {Creating, NotReady}: true, {Creating, Removing}: true,
		{Ready, NotReady}: true, {Ready, Removing}: true, {NotReady, Removing}: true,
		{Created, Starting}: true, {Created, Exited}: true, {Created, Removing}: true,
		{Starting, Running}: true, {Starting, Exited}: true, {Starting, Created}: true, {Starting, Removing}: true,
		{Running, Exited}: true, {Running, Removing}: true, {Exited, Removing}: true,
	}
	for _, from := range all {
		for _, to := range all {
			if got := CanMove(from, to); got != legal[[2]State{from, to}] {
				t.Errorf("%s to %s: got %v", from, to, got)
			}
		}
	}
}

func TestDecideContainer(t *testing.T) {
	alive, dead := &Process{PID: 7}, &Process{PID: 7, Exit: &Exit{Code: 3}}
	for _, c := range []struct {
		state State
		boot  string
		proc  *Process
		want  verdict
	}{
		{Creating, "b", nil, teardown},
		{Creating, "old", nil, teardown},
		{Removing, "b", alive, teardown},
		{Created, "b", nil, keep},
		{Created, "old", nil, markLost},
		{Created, "b", alive, markRunning},
		{Starting, "b", nil, markCreated},
		{Starting, "b", alive, markRunning},
		{Starting, "b", dead, markExited},
		{Starting, "old", nil, markLost},
		{Running, "b", alive, keep},
		{Running, "b", dead, markExited},
		{Running, "b", nil, markLost},
		{Running, "old", alive, markLost}, // an id of another boot cannot run in this one
		{Exited, "old", nil, keep},
		{Exited, "b", dead, keep},
	} {
		got := decideContainer(Container{State: c.state, BootID: c.boot}, seen{bootID: "b", proc: c.proc})
		if got != c.want {
			t.Errorf("%s of boot %s with process %v: got %s, want %s", c.state, c.boot, c.proc, got, c.want)
		}
	}
}

func TestDecideSandbox(t *testing.T) {
	alive, dead := &Process{PID: 7}, &Process{PID: 7, Exit: &Exit{Code: 137}}
	for _, c := range []struct {
		state State
		boot  string
		pid   NamespaceMode
		proc  *Process
		netns string
		want  verdict
	}{
		{Creating, "b", ModeContainer, nil, "", teardown},
		{Removing, "old", ModeContainer, nil, "", teardown},
		{Ready, "b", ModeContainer, nil, "/ns", keep},
		{Ready, "b", ModeContainer, nil, "", markNotReady},
		{Ready, "old", ModeContainer, nil, "/ns", markNotReady},
		{Ready, "b", ModePod, alive, "/ns", keep},
		{Ready, "b", ModePod, dead, "/ns", markNotReady},
		{Ready, "b", ModePod, nil, "/ns", markNotReady},
		{NotReady, "old", ModePod, nil, "", keep},
	} {
		s := Sandbox{State: c.state, BootID: c.boot, Config: SandboxConfig{Namespaces: Namespaces{PID: c.pid}}}
		if got := decideSandbox(s, seen{"b", c.proc, c.netns, true}); got != c.want {
			t.Errorf("%+v: got %s, want %s", c, got, c.want)
		}
	}
	host := Sandbox{State: Ready, BootID: "b", Config: SandboxConfig{Namespaces: Namespaces{PID: ModeContainer, Network: ModeNode}}}
	for files, want := range map[bool]verdict{true: keep, false: markNotReady} {
		if got := decideSandbox(host, seen{bootID: "b", files: files}); got != want {
			t.Errorf("with the host's network, its files there %t: got %s, want %s", files, got, want)
		}
	}
}

// detachWatcher looks at a moment in which a network is given back.
type detachWatcher struct {
	Network
	detaching func(ID)
}

func (d detachWatcher) Detach(ctx context.Context, a Attachment) error {
	d.detaching(a.ID)
	return d.Network.Detach(ctx, a)
}

// TestAttached: attached is who is Ready and has a network, until just before it is given back.
func TestAttached(t *testing.T) {
	m := newWorld().start(t)
	watched := 0
	m.Network = detachWatcher{m.Network, func(id ID) {
		watched++
		if _, ok := m.Attachment(id); ok || slices.Contains(m.Attached(), id) {
			t.Error("attached while it is given back")
		}
	}}
	hostNetwork := sandboxConfig("host", ModeContainer)
	hostNetwork.Namespaces.Network = ModeNode
	if _, err := m.RunSandbox(t.Context(), hostNetwork); err != nil {
		t.Fatal(err)
	}
	id, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Attached(); len(got) != 1 || got[0] != id {
		t.Errorf("got %v, want %s alone", got, id)
	}
	if a, ok := m.Attachment(id); !ok || a.ID != id || a.NetNS == "" {
		t.Errorf("got %+v, %v", a, ok)
	}
	if err := m.StopSandbox(t.Context(), string(id)); err != nil {
		t.Fatal(err)
	}
	if watched != 1 || len(m.Attached()) != 0 {
		t.Errorf("given back %d times, attached %v", watched, m.Attached())
	}
}
