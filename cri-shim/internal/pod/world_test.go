package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/paths"
)

var errCrash = errors.New("the process is dead")

// world is everything outside of a Manager, kept over its crashes: what is on disk, what runs, which
// addresses, namespaces, files and images are held. Each effect is counted; from the crashAt-th on
// every effect fails, as if the process had been killed before it.
type world struct {
	mu         sync.Mutex
	effects    int
	crashAt    int // 0: never
	fail       map[string]error
	block      map[string]chan struct{}
	sandboxes  map[ID]Sandbox
	containers map[ID]Container
	procs      map[ID]*Process
	attached   map[ID]bool
	pinned     map[ID]bool
	files      map[ID]bool            // bundles and shared files by owner
	mounted    map[ID]bool            // root file systems
	images     map[ID]map[string]bool // by owner
	specs      map[ID]Resources       // in config.json
	limits     map[ID]string          // of running containers
	signals    []string
	starting   map[ID]chan struct{} // starts that outlive a Manager; closed when they have ended
	watcher    func(ID, Exit)
	deaf       bool // the process ignores its stop signal
	nextPID    int
	plugins    Plugins
	ended      func(Container) // called under mu
	kill       func()          // ends the Manager of the last start
}

func newWorld() *world {
	return &world{
		fail: map[string]error{}, block: map[string]chan struct{}{},
		sandboxes: map[ID]Sandbox{}, containers: map[ID]Container{}, procs: map[ID]*Process{},
		attached: map[ID]bool{}, pinned: map[ID]bool{}, files: map[ID]bool{}, mounted: map[ID]bool{}, images: map[ID]map[string]bool{},
		specs: map[ID]Resources{}, limits: map[ID]string{}, nextPID: 100,
	}
}

// effect runs f as one step that a crash can precede.
func (w *world) effect(name string, f func() error) error {
	w.mu.Lock()
	w.effects++
	if w.crashAt != 0 && w.effects >= w.crashAt {
		w.mu.Unlock()
		return fmt.Errorf("%s: %w", name, errCrash)
	}
	gate, err := w.block[name], w.fail[name]
	w.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return f()
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// start makes a Manager on this world and waits until it has recovered.
func (w *world) start(t *testing.T) *Manager {
	t.Helper()
	if w.kill != nil {
		w.kill()
	}
	w.set(func() { w.crashAt, w.effects, w.watcher = 0, 0, nil })
	m, err := New(Deps{
		Store: w, Images: worldImages{w}, Network: worldNetwork{w}, Pinner: worldPinner{w}, Bundles: worldBundles{w}, Runtime: worldRuntime{w}, Plugins: w.plugins,
		Checkpoints: worldCheckpoints{w},
		Ended: func(c Container) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.ended != nil {
				w.ended(c)
			}
		},
		Layout: paths.Layout{Root: "/root", State: "/state"}, BootID: "boot", Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	w.kill = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(w.kill)
	select {
	case <-m.Recovered():
	case <-time.After(10 * time.Second):
		t.Fatal("no recovery")
	}
	for watched := false; !watched; time.Sleep(time.Millisecond) { // so that it hears of an end before the test goes on
		w.set(func() { watched = w.watcher != nil })
	}
	m.ops.wg.Wait()
	return m
}

// leftovers names everything held by an id that no record explains.
func (w *world) leftovers() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	known := func(id ID) bool {
		_, s := w.sandboxes[id]
		_, c := w.containers[id]
		return s || c
	}
	for kind, ids := range map[string]map[ID]bool{"address": w.attached, "namespace": w.pinned, "files": w.files, "mount": w.mounted} {
		for id := range maps.Keys(ids) {
			if !known(id) {
				out = append(out, kind+" of "+string(id))
			}
		}
	}
	for id := range w.procs {
		if !known(id) {
			out = append(out, "process of "+string(id))
		}
	}
	for id := range w.images {
		if !known(id) {
			out = append(out, "image of "+string(id))
		}
	}
	return out
}

func (w *world) PutSandbox(s Sandbox) error {
	return w.effect("put sandbox", func() error { w.sandboxes[s.ID] = s; return nil })
}

func (w *world) PutContainer(c Container) error {
	return w.effect("put container", func() error { w.containers[c.ID] = c; return nil })
}

func (w *world) DeleteSandbox(id ID) error {
	return w.effect("delete sandbox", func() error { delete(w.sandboxes, id); return nil })
}

func (w *world) DeleteContainer(_, id ID) error {
	return w.effect("delete container", func() error { delete(w.containers, id); return nil })
}

func (w *world) Load() (ss []Sandbox, cs []Container, bad []error, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sandboxes {
		ss = append(ss, s)
	}
	for _, c := range w.containers {
		cs = append(cs, c)
	}
	w.images = map[ID]map[string]bool{} // holds are in memory: a restart forgets them
	return ss, cs, nil, nil
}

type worldImages struct{ w *world }

func (i worldImages) Acquire(ref string, owner ID) (Image, error) {
	if ref == "missing" {
		return Image{}, errdefs.ErrNotFound
	}
	i.w.set(func() {
		if i.w.images[owner] == nil {
			i.w.images[owner] = map[string]bool{}
		}
		i.w.images[owner][ref] = true
	})
	return Image{ID: ref}, nil
}

func (i worldImages) Release(id string, owner ID) error {
	return i.w.effect("release image", func() error {
		delete(i.w.images[owner], id)
		if len(i.w.images[owner]) == 0 {
			delete(i.w.images, owner)
		}
		return nil
	})
}

type worldNetwork struct{ w *world }

func (n worldNetwork) Attach(_ context.Context, a Attachment) (NetworkResult, error) {
	return NetworkResult{IPs: []netip.Addr{netip.MustParseAddr("10.1.0.2")}}, n.w.effect("attach", func() error { n.w.attached[a.ID] = true; return nil })
}

func (n worldNetwork) Detach(_ context.Context, a Attachment) error {
	return n.w.effect("detach", func() error { delete(n.w.attached, a.ID); return nil })
}

type worldPinner struct{ w *world }

func (p worldPinner) Pin(_ context.Context, s Sandbox) error {
	return p.w.effect("pin", func() error { p.w.pinned[s.ID] = true; return nil })
}

func (p worldPinner) PinPID(id ID, _ int) error {
	return p.w.effect("pin pid", func() error { p.w.pinned[id] = true; return nil })
}

func (p worldPinner) NetNS(id ID) string {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if !p.w.pinned[id] {
		return ""
	}
	return "/ns/" + string(id)
}

func (p worldPinner) Unpin(id ID) error {
	return p.w.effect("unpin", func() error { delete(p.w.pinned, id); return nil })
}

type worldBundles struct{ w *world }

func (b worldBundles) hold(name string, id ID) error {
	return b.w.effect(name, func() error { b.w.files[id] = true; return nil })
}

func (b worldBundles) PrepareSandbox(_ context.Context, s Sandbox) error {
	return b.hold("prepare sandbox", s.ID)
}

func (b worldBundles) Prepared(id ID) bool {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	return b.w.files[id]
}

func (b worldBundles) PrepareInit(_ context.Context, s Sandbox) error {
	return b.hold("prepare init", s.ID)
}

func (b worldBundles) Prepare(_ context.Context, _ Sandbox, c Container, _ ContainerImages) (Effective, string, error) {
	return Effective{StopSignal: "SIGTERM"}, "/cg", b.w.effect("prepare", func() error {
		b.w.files[c.ID], b.w.mounted[c.ID] = true, true
		return nil
	})
}

// Unmount is not counted as an effect: it comes by itself, at any time after the end of a container.
func (b worldBundles) Unmount(_ context.Context, id ID) error {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	if err := b.w.fail["unmount"]; err != nil {
		return err
	}
	delete(b.w.mounted, id)
	return nil
}

func (b worldBundles) Remove(_ context.Context, _, id ID) error {
	return b.w.effect("remove bundle", func() error { delete(b.w.files, id); delete(b.w.mounted, id); return nil })
}

func (b worldBundles) RemoveSandbox(_ context.Context, id ID) error {
	return b.w.effect("remove shared", func() error { delete(b.w.files, id); return nil })
}

type worldRuntime struct{ w *world }

func (r worldRuntime) Start(_ context.Context, s StartSpec) (Process, error) {
	var p Process
	err := r.w.effect("start", func() error {
		if old := r.w.procs[s.ID]; old != nil {
			p = *old
			return nil
		}
		r.w.nextPID++
		p = Process{ID: s.ID, PID: r.w.nextPID, StartedAt: time.Now()}
		r.w.procs[s.ID] = &p
		return nil
	})
	return p, err
}

// end lets a process end as the real runtime would: durable first, then told.
func (w *world) end(id ID, e Exit) {
	w.mu.Lock()
	p, tell := w.procs[id], w.watcher
	if p == nil || p.Exit != nil {
		w.mu.Unlock()
		return
	}
	e.FinishedAt = time.Now()
	p.Exit = &e
	w.mu.Unlock()
	if tell != nil {
		tell(id, e)
	}
}

func (r worldRuntime) Signal(_ context.Context, id ID, sig string) error {
	err := r.w.effect("signal", func() error { r.w.signals = append(r.w.signals, sig); return nil })
	if err == nil && !r.w.deaf {
		r.w.end(id, Exit{Code: 143, Signal: 15})
	}
	return err
}

func (r worldRuntime) Kill(_ context.Context, id ID) error {
	err := r.w.effect("kill", func() error { return nil })
	if err == nil {
		r.w.end(id, Exit{Code: 137, Signal: 9})
	}
	return err
}

func (r worldRuntime) Delete(_ context.Context, id ID) error {
	return r.w.effect("delete", func() error { delete(r.w.procs, id); return nil })
}

func (r worldRuntime) Exec(context.Context, ExecSpec) (ExecResult, error) { return ExecResult{}, nil }

func (r worldRuntime) ReopenLog(ctx context.Context, id ID) error {
	r.w.mu.Lock()
	gate := r.w.starting[id]
	r.w.mu.Unlock()
	if gate == nil {
		return nil
	}
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r worldRuntime) List(context.Context) ([]Process, error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	var out []Process
	for _, p := range r.w.procs {
		out = append(out, *p)
	}
	return out, nil
}

func (r worldRuntime) Watch(ctx context.Context, f func(ID, Exit)) error {
	r.w.set(func() { r.w.watcher = f })
	procs, _ := r.List(ctx)
	for _, p := range procs {
		if p.Exit != nil {
			f(p.ID, *p.Exit)
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func (b worldBundles) SetLimits(_ context.Context, c Container, r Resources) ([]byte, error) {
	err := b.w.effect("set limits", func() error { b.w.specs[c.ID] = r; return nil })
	return fmt.Appendf(nil, "%+v", r), err
}

func (r worldRuntime) Update(_ context.Context, id ID, resources []byte) error {
	return r.w.effect("update", func() error { r.w.limits[id] = string(resources); return nil })
}

func (b worldBundles) Adjust(_ context.Context, c Container, f func(*specs.Spec) error) (Effective, string, error) {
	return c.Effective, c.CgroupPath, b.w.effect("adjust", func() error { return f(&specs.Spec{}) })
}
