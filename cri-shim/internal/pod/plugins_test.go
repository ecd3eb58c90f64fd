package pod

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var errRefused = errors.New("refused by a plugin")

// plugins is one plugin that writes down what it is told, and refuses what it is asked to.
type plugins struct {
	mu     sync.Mutex
	open   int
	events []string
	refuse string            // an event
	look   func(what string) // called with each event, while its step is open
	limits Resources         // what it makes of every update
}

func (p *plugins) Begin() PluginStep {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open++
	return &pluginsStep{plugins: p}
}

type pluginsStep struct {
	*plugins
	ended bool
}

func (s *pluginsStep) Listening() bool { return true }

func (s *pluginsStep) End() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		panic("a step was ended twice")
	}
	s.ended = true
	s.open--
	return settled
}

func (s *pluginsStep) hear(what string) error {
	if s.ended {
		panic(what + " after the end of its step")
	}
	if s.look != nil {
		s.look(what)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, what)
	if what == s.refuse {
		return errRefused
	}
	return nil
}

func (s *pluginsStep) Tell(_ context.Context, e PluginEvent, _ Sandbox, _ Container) error {
	return s.hear(string(e))
}

func (s *pluginsStep) Adjust(_ context.Context, _ Sandbox, _ Container, spec *specs.Spec) error {
	spec.Hostname = "adjusted"
	return s.hear("adjust")
}

func (s *pluginsStep) Update(_ context.Context, _ Sandbox, _ Container, change Resources) (Resources, error) {
	return change.with(s.limits), s.hear("update")
}

func (p *plugins) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

// begun is a world with a plugin.
func begun(t *testing.T, refuse string) (*world, *Manager, *plugins) {
	t.Helper()
	w, p := newWorld(), &plugins{refuse: refuse}
	w.plugins = p
	m := w.start(t)
	t.Cleanup(func() {
		w.kill()
		if p.open != 0 {
			t.Errorf("%d steps are open", p.open)
		}
	})
	return w, m, p
}

func TestPluginsSeeALife(t *testing.T) {
	w, m, p := begun(t, "")
	p.look = func(what string) {
		switch what {
		case "run sandbox":
			if n := len(m.Sandboxes()); n != 0 {
				t.Errorf("%s: %d sandboxes are visible", what, n)
			}
		case "adjust":
			if n := len(m.Containers()); n != 0 {
				t.Errorf("%s: %d containers are visible", what, n)
			}
		case "sandbox stopped":
			if w.attached = map[ID]bool{}; len(m.Sandboxes()) != 1 {
				t.Errorf("%s: the sandbox is gone", what)
			}
		}
	}
	if err := story(m); err != nil {
		t.Fatal(err)
	}
	m.ops.wg.Wait()
	want := []string{
		"run sandbox", "adjust", "container created", "start container", "container started",
		"container stopped", "container removed", "sandbox stopped", "sandbox removed",
	}
	// The end of a container is told by the stop and by the exit, whoever is first; the other one is left out by
	// the step itself.
	if got := slices.Compact(p.heard()); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	w.mustBeEmpty(t)
}

func TestPluginsHearOfAnExit(t *testing.T) {
	w, m, p := begun(t, "")
	s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.CreateContainer(t.Context(), string(s), containerConfig("c"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.StartContainer(t.Context(), string(c)); err != nil {
		t.Fatal(err)
	}
	w.end(c, Exit{Code: 1})
	p.await(t, ContainerStopped)
}

// await waits until the plugin has heard of an event.
func (p *plugins) await(t *testing.T, e PluginEvent) {
	t.Helper()
	for range 1000 {
		if slices.Contains(p.heard(), string(e)) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no %q in %q", e, p.heard())
}

// TestPluginsRefuse: what a plugin refuses leaves nothing, and is an error of the call.
func TestPluginsRefuse(t *testing.T) {
	for _, refuse := range []string{"run sandbox", "adjust", "start container"} {
		w, m, p := begun(t, refuse)
		if err := story(m); !errors.Is(err, errRefused) {
			t.Errorf("%s: got %v", refuse, err)
		}
		if refuse == "start container" {
			c := m.Containers()[0]
			if c.State != Exited || c.Reason != reasonStartError || len(w.procs) != 1 { // the sandbox's init
				t.Errorf("the container is %s, %s; processes %v", c.State, c.Reason, w.procs)
			}
		}
		if refuse == "adjust" && len(m.Containers()) != 0 {
			t.Errorf("%s: %v", refuse, m.Containers())
		}
		p.refuse = ""
		if err := story(m); err != nil && refuse != "start container" {
			t.Errorf("%s, again: %v", refuse, err)
		}
		removeAll(t, m)
		w.mustBeEmpty(t)
		for _, e := range []string{"sandbox removed", "sandbox stopped"} {
			if !slices.Contains(p.heard(), e) && refuse != "run sandbox" {
				t.Errorf("%s: no %q in %q", refuse, e, p.heard())
			}
		}
	}
}

func TestPluginsChangeAnUpdate(t *testing.T) {
	w := newWorld()
	p := &plugins{limits: Resources{CpusetCPUs: "1"}}
	w.plugins = p
	m, id := made(t, w, true)
	if err := m.UpdateContainer(t.Context(), string(id), Resources{CPUShares: 512}); err != nil {
		t.Fatal(err)
	}
	if got := limitsOf(t, m, id); got.CPUShares != 512 || got.CpusetCPUs != "1" {
		t.Errorf("got %+v", got)
	}
	heard := p.heard()
	if got := heard[len(heard)-2:]; !slices.Equal(got, []string{"update", "container updated"}) {
		t.Errorf("got %q", got)
	}

	p.refuse = "update"
	if err := m.UpdateContainer(t.Context(), string(id), Resources{CPUShares: 1024}); !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
	if got := limitsOf(t, m, id); got.CPUShares != 512 {
		t.Errorf("a refused update changed %+v", got)
	}

	told := len(p.heard())
	if err := m.UpdateForPlugin(t.Context(), id, Resources{CPUShares: 2048}); err != nil {
		t.Fatal(err)
	}
	if got := limitsOf(t, m, id); got.CPUShares != 2048 || len(p.heard()) != told {
		t.Errorf("a plugin's own update: %+v, then %q", got, p.heard()[told:])
	}
	if err := m.UpdateForPlugin(t.Context(), "none", Resources{CPUShares: 2}); err != nil {
		t.Errorf("a container that is gone: %v", err)
	}

	w.end(id, Exit{})
	p.await(t, ContainerStopped)
	told = len(p.heard())
	if err := m.UpdateContainer(t.Context(), string(id), Resources{CPUShares: 4}); !errdefs.IsFailedPrecondition(err) || len(p.heard()) != told {
		t.Errorf("of a container that has ended: %v, then %q", err, p.heard()[told:])
	}
}

func TestLimitsThatHold(t *testing.T) {
	c := Container{Config: ContainerConfig{Resources: Resources{CPUShares: 1}}}
	for want, change := range []func(){
		func() {},
		func() { c.Effective.Limits = &Resources{CPUShares: 2} },
		func() { c.Updated = &Resources{CPUShares: 3} },
	} {
		if change(); c.Limits().CPUShares != int64(want+1) {
			t.Errorf("got %d, want %d", c.Limits().CPUShares, want+1)
		}
	}
}

func TestPluginsAreAskedForASandboxsLimits(t *testing.T) {
	_, m, p := begun(t, "update sandbox")
	cfg := sandboxConfig("a", ModeContainer)
	cfg.Resources = &Resources{CPUShares: 2}
	id, err := m.RunSandbox(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.UpdateSandbox(t.Context(), string(id), nil, &Resources{CPUShares: 4}); !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
	if s, _ := m.Sandbox(string(id)); s.Resources.CPUShares != 2 {
		t.Errorf("a refused update set %+v", s.Resources)
	}
	p.refuse = string(SandboxUpdated) // a fact
	p.events = nil
	if err := m.UpdateSandbox(t.Context(), string(id), nil, &Resources{CPUShares: 4}); err != nil {
		t.Errorf("got %v", err)
	}
	if s, _ := m.Sandbox(string(id)); s.Resources.CPUShares != 4 || fmt.Sprint(p.heard()) != "[update sandbox sandbox updated]" {
		t.Errorf("set %+v, told %q", s.Resources, p.heard())
	}
}
