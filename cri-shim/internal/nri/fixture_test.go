package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// runtime is what plugins see, without a manager.
type runtime struct {
	mu         sync.Mutex
	sandboxes  []pod.Sandbox
	containers []pod.Container
	updates    map[pod.ID]pod.Resources
	stopped    []string
}

func (r *runtime) Sandboxes() []pod.Sandbox    { r.mu.Lock(); defer r.mu.Unlock(); return r.sandboxes }
func (r *runtime) Containers() []pod.Container { r.mu.Lock(); defer r.mu.Unlock(); return r.containers }

func (r *runtime) Sandbox(ref string) (pod.Sandbox, error) {
	for _, s := range r.Sandboxes() {
		if string(s.ID) == ref {
			return s, nil
		}
	}
	return pod.Sandbox{}, errdefs.ErrNotFound
}

func (r *runtime) UpdateForPlugin(_ context.Context, id pod.ID, change pod.Resources) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id == "fails" {
		return errors.New("it cannot be")
	}
	r.updates[id] = change
	return nil
}

func (r *runtime) StopContainer(_ context.Context, ref string, _ time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = append(r.stopped, ref)
	return nil
}

func (r *runtime) update(id pod.ID) (pod.Resources, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.updates[id]
	return c, ok
}

// instance is a running Plugins.
type instance struct {
	*Plugins
	runtime *runtime
	socket  string
	end     func()
}

func sandbox() pod.Sandbox {
	return pod.Sandbox{ID: "s", State: pod.Ready, Config: pod.SandboxConfig{Name: "n", Namespace: "ns", UID: "u"}}
}

func container(state pod.State) pod.Container {
	return pod.Container{ID: "c", SandboxID: "s", State: state, Config: pod.ContainerConfig{Name: "cn", Labels: map[string]string{"l": "1"}}}
}

func spec() *specs.Spec {
	n := 7
	return &specs.Spec{
		Process: &specs.Process{
			Args: []string{"run"}, Env: []string{"A=1"}, OOMScoreAdj: &n, User: specs.User{UID: 1},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 1}},
		},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux:  &specs.Linux{CgroupsPath: "/p/c", Resources: &specs.LinuxResources{}},
	}
}

func options(t *testing.T) Options {
	dir := t.TempDir()
	return Options{
		SocketPath: filepath.Join(dir, "nri.sock"), PluginPath: filepath.Join(dir, "plugins"), PluginConfigPath: filepath.Join(dir, "conf"),
		RegistrationTimeout: 5 * time.Second, RequestTimeout: 5 * time.Second, Version: "1.0.0", Logger: slog.New(slog.DiscardHandler),
		Host: Host{
			Spec:         func(pod.ID) (*specs.Spec, error) { return spec(), nil },
			NamespaceDir: func(string) string { return dir },
		},
	}
}

func run(t *testing.T, opt Options) *instance {
	t.Helper()
	p, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{Plugins: p, runtime: &runtime{updates: map[pod.ID]pod.Resources{}}, socket: opt.SocketPath}
	ctx, cancel := context.WithCancel(context.Background())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- p.Run(ctx, i.runtime, func() { close(ready) }) }()
	i.end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(i.end)
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
	return i
}

// plugin is a real one: it speaks the protocol over the socket.
type plugin struct {
	stub stub.Stub

	mu        sync.Mutex
	heard     []string
	last      *api.Container // of the last event that had one
	adjust    *api.ContainerAdjustment
	updates   []*api.ContainerUpdate
	onCreate  func() // runs in the handler
	lost      chan struct{}
	synced    chan struct{}
	resources *api.LinuxResources
}

func (p *plugin) hear(what string, c *api.Container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, what)
	if c != nil {
		p.last = c
	}
}

func (p *plugin) events() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.heard)
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, cs []*api.Container) ([]*api.ContainerUpdate, error) {
	p.hear(fmt.Sprintf("sync %d %d", len(pods), len(cs)), nil)
	close(p.synced)
	return p.updates, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.hear("run "+s.GetNamespace()+"/"+s.GetName(), nil)
	return nil
}
func (p *plugin) StopPodSandbox(context.Context, *api.PodSandbox) error {
	p.hear("stop pod", nil)
	return nil
}
func (p *plugin) RemovePodSandbox(context.Context, *api.PodSandbox) error {
	p.hear("remove pod", nil)
	return nil
}

func (p *plugin) UpdatePodSandbox(_ context.Context, s *api.PodSandbox, _, r *api.LinuxResources) error {
	p.hear(fmt.Sprintf("update pod from %d to %d", s.GetLinux().GetPodResources().GetCpu().GetShares().GetValue(), r.GetCpu().GetShares().GetValue()), nil)
	return nil
}

func (p *plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.hear("create", c)
	if p.onCreate != nil {
		p.onCreate()
	}
	return p.adjust, p.updates, nil
}

func (p *plugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("created", c)
	return nil
}

func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("start", c)
	return nil
}

func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("started", c)
	return nil
}

func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.hear("update", c)
	p.mu.Lock()
	p.resources = r
	p.mu.Unlock()
	return p.updates, nil
}

func (p *plugin) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("updated", c)
	return nil
}

func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.hear("stop", c)
	return nil, nil
}

func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.hear("remove", c)
	return nil
}

// connect returns once the runtime counts the plugin.
func (i *instance) connect(t *testing.T, p *plugin) *plugin {
	t.Helper()
	was := i.count.Load()
	i.dial(t, p)
	i.eventually(t, func() bool { return i.count.Load() == was+1 })
	return p
}

// dial returns once the plugin is told of what there is.
func (i *instance) dial(t *testing.T, p *plugin) {
	t.Helper()
	p.lost, p.synced = make(chan struct{}), make(chan struct{})
	var err error
	p.stub, err = stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx("10"), stub.WithSocketPath(i.socket),
		stub.WithOnClose(sync.OnceFunc(func() { close(p.lost) })))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	started := make(chan error, 1)
	go func() { started <- p.stub.Start(ctx) }()
	select {
	case err := <-started:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the plugin was not accepted")
	}
	t.Cleanup(p.stub.Stop)
}

func (i *instance) eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for range 1000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not come to be")
}

// tell tells of one event in a step of its own.
func (i *instance) tell(t *testing.T, e pod.PluginEvent, s pod.Sandbox, c pod.Container) {
	t.Helper()
	step := i.Begin()
	if err := step.Tell(t.Context(), e, s, c); err != nil {
		t.Errorf("%s: %v", e, err)
	}
	<-step.End()
}

// create makes a container in a step of its own.
func (i *instance) create(t *testing.T) (*specs.Spec, error) {
	t.Helper()
	s := spec()
	step := i.Begin()
	err := step.Adjust(t.Context(), sandbox(), container(pod.Creating), s)
	<-step.End()
	return s, err
}
