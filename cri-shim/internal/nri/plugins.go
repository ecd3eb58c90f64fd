package nri

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// carryLimit is how long what plugins ask for one container may take.
const carryLimit = 10 * time.Second

// Runtime is what plugins see and change. The manager of pods implements it.
type Runtime interface {
	Sandboxes() []pod.Sandbox
	Containers() []pod.Container
	Sandbox(ref string) (pod.Sandbox, error)
	UpdateForPlugin(ctx context.Context, id pod.ID, change pod.Resources) error
	StopContainer(ctx context.Context, ref string, patience time.Duration) error
}

// Host is what the adjustments of configurations depend on.
type Host struct {
	Controllers map[string]bool // cgroup controllers that can be used
	CgroupV2    bool
	Systemd     bool // the cgroup driver
	// InjectCDI adds devices by their CDI names.
	InjectCDI func(*specs.Spec, []string) error
	// Spec reads the configuration of a container back.
	Spec func(pod.ID) (*specs.Spec, error)
	// NamespaceDir is where the namespaces of a sandbox are.
	NamespaceDir func(sandbox string) string
}

// Options are the configuration of the interface.
type Options struct {
	SocketPath          string
	PluginPath          string // programs to start
	PluginConfigPath    string // their configuration
	RegistrationTimeout time.Duration
	RequestTimeout      time.Duration
	DisableConnections  bool
	Validator           Validator
	Version             string
	Host                Host
	Logger              *slog.Logger
}

// Validator is the configuration of the library's own validator of adjustments.
type Validator = validator.DefaultValidatorConfig

// Plugins implements pod.Plugins.
type Plugins struct {
	opt     Options
	count   atomic.Int64
	started chan struct{} // closed when the pre-installed plugins are there

	runtime Runtime // set by Run, before started is closed
	library *adaptation.Adaptation

	life context.Context // ends with Run
	work sync.WaitGroup  // what plugins have asked for

	mu   sync.Mutex
	told map[pod.ID]*entry // guarded by mu; what plugins know
}

// New checks the options and starts nothing.
func New(opt Options) (*Plugins, error) {
	if opt.Logger == nil || opt.Host.Spec == nil || opt.Host.NamespaceDir == nil {
		return nil, fmt.Errorf("NRI: logger and host are needed: %w", errdefs.ErrInvalidArgument)
	}
	return &Plugins{opt: opt, started: make(chan struct{}), told: make(map[pod.ID]*entry)}, nil
}

// Run starts the pre-installed plugins and accepts others until ctx ends. It calls ready when those that are to be
// there from the start are. It may be called once.
func (p *Plugins) Run(ctx context.Context, r Runtime, ready func()) error {
	life, end := context.WithCancel(ctx)
	defer p.work.Wait()
	defer p.ending(end)
	p.life, p.runtime = life, r
	err := p.start()
	close(p.started)
	if err != nil {
		return err
	}
	defer p.library.Stop()
	ready()
	<-ctx.Done()
	return nil
}

// ending lets no work begin any more.
func (p *Plugins) ending(end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end()
}

// enter says whether work may begin, which then ends with work.Done.
func (p *Plugins) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.Err() != nil {
		return false
	}
	p.work.Add(1)
	return true
}

func (p *Plugins) start() (err error) {
	libraryLog.to.Store(p.opt.Logger)
	setLog()
	adaptation.SetPluginRegistrationTimeout(p.opt.RegistrationTimeout)
	adaptation.SetPluginRequestTimeout(p.opt.RequestTimeout)
	options := []adaptation.Option{
		adaptation.WithSocketPath(p.opt.SocketPath),
		adaptation.WithPluginPath(p.opt.PluginPath),
		adaptation.WithPluginConfigPath(p.opt.PluginConfigPath),
		adaptation.WithDefaultValidator(&p.opt.Validator),
		adaptation.WithMetrics(counter{p}),
	}
	switch {
	case p.opt.DisableConnections:
		options = append(options, adaptation.WithDisabledExternalConnections())
	case isServed(p.opt.SocketPath):
		// The library would take the socket away from its owner.
		p.opt.Logger.Warn("another runtime serves the NRI socket: no plugin can connect to this one", "socket", p.opt.SocketPath)
		options = append(options, adaptation.WithDisabledExternalConnections())
	}
	p.library, err = adaptation.New("cri-shim", p.opt.Version, p.synchronize, p.unsolicited, options...)
	if err == nil {
		err = p.library.Start()
	}
	if err != nil {
		return fmt.Errorf("start NRI (nri.disable leaves it out): %w", err)
	}
	return nil
}

// isServed says whether somebody accepts connections there.
func isServed(path string) bool {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close() // it was only looked at
	return true
}

// counter is told by the library, with its lock held, how many plugins there are.
type counter struct{ p *Plugins }

func (c counter) UpdatePluginCount(n int) {
	if was := c.p.count.Swap(int64(n)); was != int64(n) {
		c.p.opt.Logger.Info("NRI plugins", "count", n, "before", was)
	}
}
func (counter) RecordPluginInvocation(string, string, error)                                      {}
func (counter) RecordPluginLatency(string, string, time.Duration)                                 {}
func (counter) RecordPluginAdjustments(string, string, *adaptation.ContainerAdjustment, int, int) {}

// synchronize is called by the library for each newcomer, while no step is open.
func (p *Plugins) synchronize(ctx context.Context, send adaptation.SyncCB) error {
	pods, containers := p.snapshot()
	updates, err := send(ctx, pods, containers)
	if err != nil {
		return err
	}
	p.carryOut(wishes{updates: updates})
	return nil
}

// unsolicited is called by the library when a plugin asks for updates by itself.
func (p *Plugins) unsolicited(ctx context.Context, updates []*adaptation.ContainerUpdate) ([]*adaptation.ContainerUpdate, error) {
	if !p.enter() {
		return updates, fmt.Errorf("the runtime ends: %w", errdefs.ErrUnavailable)
	}
	defer p.work.Done()
	return p.update(ctx, updates), nil
}

// wishes are what plugins ask for containers other than the one they were asked about.
type wishes struct {
	updates   []*adaptation.ContainerUpdate
	evictions []*adaptation.ContainerEviction
}

var settled = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// carryOut does what plugins have asked for, in the background: it has to wait for other operations.
func (p *Plugins) carryOut(w wishes) <-chan struct{} {
	if len(w.updates)+len(w.evictions) == 0 || !p.enter() {
		return settled
	}
	done := make(chan struct{})
	go func() {
		defer p.work.Done()
		defer close(done)
		p.evict(p.life, w.evictions)
		p.update(p.life, w.updates)
	}()
	return done
}

func (p *Plugins) evict(ctx context.Context, evictions []*adaptation.ContainerEviction) {
	for _, e := range evictions {
		ctx, cancel := context.WithTimeout(ctx, carryLimit)
		err := p.runtime.StopContainer(ctx, e.GetContainerId(), 0)
		cancel()
		p.opt.Logger.Info("a plugin has evicted a container", "container", e.GetContainerId(), "reason", e.GetReason(), "err", err)
	}
}

// update returns the updates that failed and may not.
func (p *Plugins) update(ctx context.Context, updates []*adaptation.ContainerUpdate) (failed []*adaptation.ContainerUpdate) {
	for _, u := range updates {
		if u.GetContainerId() == "" {
			continue // the library adds an empty one for a container that no plugin changes
		}
		change, err := changeIn(u.GetLinux().GetResources())
		if err == nil {
			ctx, cancel := context.WithTimeout(ctx, carryLimit)
			err = p.runtime.UpdateForPlugin(ctx, pod.ID(u.GetContainerId()), change)
			cancel()
		}
		if err == nil {
			continue
		}
		p.opt.Logger.Warn("update a container for a plugin", "container", u.GetContainerId(), "err", err)
		if !u.GetIgnoreFailure() {
			failed = append(failed, u)
		}
	}
	return failed
}
