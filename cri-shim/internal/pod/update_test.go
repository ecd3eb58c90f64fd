package pod

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
)

// made is a started world with a container, which runs or not.
func made(t *testing.T, w *world, run bool) (*Manager, ID) {
	t.Helper()
	m := w.start(t)
	s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModePod))
	if err != nil {
		t.Fatal(err)
	}
	cfg := containerConfig("c")
	cfg.Resources = Resources{CPUShares: 2, MemoryLimit: 100, OOMScoreAdj: 5, Unified: map[string]string{"a.b": "1"}}
	id, err := m.CreateContainer(t.Context(), string(s), cfg)
	if err == nil && run {
		err = m.StartContainer(t.Context(), string(id))
	}
	if err != nil {
		t.Fatal(err)
	}
	return m, id
}

func limitsOf(t *testing.T, m *Manager, id ID) Resources {
	t.Helper()
	c, err := m.Container(string(id))
	if err != nil {
		t.Fatal(err)
	}
	if c.Updating != nil {
		t.Errorf("the intent %+v stays", *c.Updating)
	}
	return c.Limits()
}

func TestUpdateContainer(t *testing.T) {
	change := Resources{MemoryLimit: 200, OOMScoreAdj: 7, CpusetCPUs: "1", Unified: map[string]string{"c.d": "2"}}
	want := Resources{CPUShares: 2, MemoryLimit: 200, OOMScoreAdj: 7, CpusetCPUs: "1", Unified: map[string]string{"a.b": "1", "c.d": "2"}}
	for _, run := range []bool{false, true} {
		w := newWorld()
		m, id := made(t, w, run)
		if err := m.UpdateContainer(t.Context(), string(id), change); err != nil {
			t.Fatal(err)
		}
		want := want
		if run {
			want.OOMScoreAdj = 5 // of a process that runs it stays
		}
		if got := limitsOf(t, m, id); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(w.specs[id], want) {
			t.Errorf("running %v: got %+v, in config.json %+v, want %+v", run, got, w.specs[id], want)
		}
		if got := w.limits[id]; run != (got == fmt.Sprintf("%+v", want)) {
			t.Errorf("running %v: the runtime was told %q", run, got)
		}
		if c, _ := m.Container(string(id)); c.Config.Resources.MemoryLimit != 100 || len(c.Config.Resources.Unified) != 1 {
			t.Errorf("what was asked for has changed: %+v", c.Config.Resources)
		}
		m = w.start(t)
		if got := limitsOf(t, m, id); !reflect.DeepEqual(got, want) {
			t.Errorf("running %v, after a restart: %+v", run, got)
		}
		removeAll(t, m)
		w.mustBeEmpty(t)
	}
}

func TestUpdateRefused(t *testing.T) {
	w := newWorld()
	m, id := made(t, w, true)
	for _, c := range []struct {
		change Resources
		class  error
	}{
		{Resources{MemoryLimit: 300, MemorySwap: 200}, errdefs.ErrInvalidArgument},
		{Resources{HugepageCaps: map[string]uint64{"2MB": 1}}, errdefs.ErrFailedPrecondition},
	} {
		if err := m.UpdateContainer(t.Context(), string(id), c.change); !errors.Is(err, c.class) {
			t.Errorf("%+v: %v", c.change, err)
		}
	}
	before := limitsOf(t, m, id)
	w.set(func() { w.fail["update"] = fmt.Errorf("in use: %w", errdefs.ErrFailedPrecondition) })
	if err := m.UpdateContainer(t.Context(), string(id), Resources{CPUShares: 9}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	if got := limitsOf(t, m, id); !reflect.DeepEqual(got, before) || !reflect.DeepEqual(w.specs[id], before) {
		t.Errorf("after a refusal: %+v, in config.json %+v", got, w.specs[id])
	}
	w.set(func() { delete(w.fail, "update") })
	if err := m.StopContainer(t.Context(), string(id), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.UpdateContainer(t.Context(), string(id), Resources{CPUShares: 9}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("of one that has ended: %v", err)
	}
	if err := m.UpdateContainer(t.Context(), "none", Resources{}); !errdefs.IsNotFound(err) {
		t.Errorf("of none: %v", err)
	}
}

// TestUpdateCrashAnywhere: after a restart the old limits hold everywhere, or the new ones do.
func TestUpdateCrashAnywhere(t *testing.T) {
	for _, run := range []bool{false, true} {
		for k := 1; ; k++ {
			w := newWorld()
			m, id := made(t, w, run)
			old := limitsOf(t, m, id)
			w.set(func() { w.effects, w.crashAt, w.specs[id], w.limits[id] = 0, k, old, fmt.Sprintf("%+v", old) })
			err := m.UpdateContainer(t.Context(), string(id), Resources{CPUShares: 9})
			done := err == nil
			if m = w.start(t); done && limitsOf(t, m, id).CPUShares != 9 {
				t.Errorf("running %v, crash at %d: success was told, and the old limits hold", run, k)
			}
			now := limitsOf(t, m, id)
			if !reflect.DeepEqual(w.specs[id], now) || run && w.limits[id] != fmt.Sprintf("%+v", now) {
				t.Errorf("running %v, crash at %d: record %+v, config.json %+v, runtime %s", run, k, now, w.specs[id], w.limits[id])
			}
			removeAll(t, m)
			w.mustBeEmpty(t)
			if done {
				if k < 3 {
					t.Errorf("only %d effects", k)
				}
				break
			}
		}
	}
}

func TestUpdateSandbox(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	cfg := sandboxConfig("a", ModeContainer)
	cfg.Overhead, cfg.Resources = &Resources{CPUShares: 1}, &Resources{CPUShares: 2}
	made, err := m.RunSandbox(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	id := string(made)
	if s, err := m.Sandbox(id); err != nil || s.Overhead.CPUShares != 1 || s.Resources.CPUShares != 2 {
		t.Errorf("at first: %+v, %v", s, err)
	}
	if err := m.UpdateSandbox(t.Context(), id, &Resources{CPUShares: 3}, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.UpdateSandbox(t.Context(), id, nil, &Resources{CPUShares: 4}); err != nil {
		t.Fatal(err)
	}
	m = w.start(t)
	if s, err := m.Sandbox(id); err != nil || s.Overhead.CPUShares != 3 || s.Resources.CPUShares != 4 {
		t.Errorf("got %+v, %v", s, err)
	}
	if err := m.UpdateSandbox(t.Context(), "none", nil, nil); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}
