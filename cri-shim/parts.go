package crishim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/bundle"
	"github.com/podwright/podwright/cri-shim/internal/cdi"
	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
	"github.com/podwright/podwright/cri-shim/internal/checkpoint"
	"github.com/podwright/podwright/cri-shim/internal/criserver"
	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/metrics"
	"github.com/podwright/podwright/cri-shim/internal/monitor/client"
	"github.com/podwright/podwright/cri-shim/internal/nri"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/podnet"
	"github.com/podwright/podwright/cri-shim/internal/podns"
	"github.com/podwright/podwright/cri-shim/internal/rootfs"
	"github.com/podwright/podwright/cri-shim/internal/stats"
	"github.com/podwright/podwright/cri-shim/internal/store"
	"github.com/podwright/podwright/cri-shim/internal/stream"
)

// networkUsers is where all instances on a host tell each other which networks they use.
const networkUsers = "/run/cri-shim-networks"

// parts are what Run puts together.
type parts struct {
	config  Config
	logger  *slog.Logger
	cgroups bundle.Cgroups

	runtimes map[string]string // handler → absolute path
	monitor  *client.Client
	health   *health
	metrics  *metrics.Metrics // nil: nothing is counted
	images   *images
	network  *podnet.Network
	pods     *pod.Manager
	nri      *nri.Plugins  // nil: disabled
	ready    chan struct{} // closed when calls may be answered
	stats    *stats.Collector
	streams  *stream.Server
	server   *criserver.Server
}

func assemble(ctx context.Context, cfg Config, o Options, layout paths.Layout) (_ *parts, err error) {
	p := &parts{config: cfg, logger: o.Logger, ready: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	facts, err := hostinfo.Collect()
	if err != nil {
		return nil, err
	}
	p.cgroups = cgroupsOf(cfg, facts)
	if p.runtimes, err = findRuntimes(cfg); err != nil {
		return nil, err
	}
	if p.monitor, err = p.newMonitor(o, layout); err != nil {
		return nil, err
	}
	p.health = newHealth(p.monitor.Ensure)
	p.metrics = p.newMetrics(o.Version, layout)
	if p.network, err = p.newNetwork(layout); err != nil {
		return nil, err
	}
	if p.images, err = newImages(ctx, cfg.Image, layout, o.Logger); err != nil {
		return nil, err
	}
	if p.pods, err = p.newManager(ctx, o.Version, facts, layout); err != nil {
		return nil, err
	}
	if p.stats, err = p.newStats(layout); err != nil {
		return nil, err
	}
	if p.streams, err = newStreams(p.config.Streaming, streamRuntime{p.monitor, p.pods}, o.Logger); err != nil {
		return nil, err
	}
	p.server, err = p.newServer(ctx, o, facts, layout)
	return p, err
}

// close ends what has no Run of its own. It may be called on half of the parts.
func (p *parts) close() error {
	var faults []error
	if p.streams != nil {
		faults = append(faults, p.streams.Close())
	}
	if p.images != nil {
		faults = append(faults, p.images.close())
	}
	if p.monitor != nil {
		faults = append(faults, p.monitor.Close())
	}
	return errors.Join(faults...)
}

func cgroupsOf(cfg Config, f hostinfo.Facts) bundle.Cgroups {
	c := bundle.Cgroups{Parent: cfg.CgroupParent, Systemd: cfg.CgroupDriver == "systemd" || cfg.CgroupDriver == "auto" && f.Systemd}
	if c.Parent == "" {
		c.Parent = "/cri-shim"
		if c.Systemd {
			c.Parent = "cri-shim.slice"
		}
	}
	return c
}

// findRuntimes looks programs up once, so that a change of PATH means nothing to a running pod.
func findRuntimes(cfg Config) (map[string]string, error) {
	found := make(map[string]string, len(cfg.Runtimes)+1)
	look := func(handler, program string) error {
		file, err := exec.LookPath(program)
		if err != nil {
			return fmt.Errorf("OCI runtime of handler %q: %w: %w", handler, err, errdefs.ErrFailedPrecondition)
		}
		found[handler], err = filepath.Abs(file)
		return err
	}
	faults := []error{look("", cfg.Runtime)}
	for name, r := range cfg.Runtimes {
		faults = append(faults, look(name, r.Path))
	}
	return found, errors.Join(faults...)
}

func (p *parts) newMonitor(o Options, layout paths.Layout) (*client.Client, error) {
	binary, err := findMonitor(p.config.Monitor.Path)
	if err != nil {
		return nil, err
	}
	args := []string{"--state", layout.State, "--log-level", p.config.Log.Level}
	if p.cgroups.Systemd {
		args = append(args, "--systemd-cgroup")
	}
	for _, handler := range slices.Sorted(maps.Keys(p.runtimes)) {
		args = append(args, "--runtime", handler+"="+p.runtimes[handler])
	}
	return client.New(client.Options{Layout: layout, Binary: binary, Args: args, Logger: o.Logger}), nil
}

// findMonitor prefers the one that was built with us.
func findMonitor(path string) (string, error) {
	const name = "cri-monitor"
	if path != "" {
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s: neither beside cri-shim nor in PATH; set monitor.path: %w: %w", name, err, errdefs.ErrFailedPrecondition)
	}
	return filepath.Abs(path)
}

func (p *parts) newNetwork(layout paths.Layout) (*podnet.Network, error) {
	o := networkOptions(p.config.CNI, layout, p.logger)
	if p.metrics != nil {
		o.Executed = p.metrics.CNI
	}
	return podnet.New(o)
}

func networkOptions(cfg CNIConfig, layout paths.Layout, logger *slog.Logger) podnet.Options {
	return podnet.Options{
		ConfDir: cfg.ConfDir, BinDirs: cfg.BinDirs, CacheDir: layout.CNICache(), UsersDir: networkUsers,
		Template: cfg.ConfTemplate, PreferV6: cfg.IPPref == "ipv6", Logger: logger,
	}
}

func (p *parts) newManager(ctx context.Context, version string, f hostinfo.Facts, layout paths.Layout) (*pod.Manager, error) {
	if p.config.EnableSELinux && !f.SELinux {
		p.logger.Warn("enable_selinux: this host has no SELinux, nothing is labelled")
	}
	records, err := store.New(layout)
	if err != nil {
		return nil, err
	}
	handlers, err := handlersOf(p.config.Runtimes, f)
	if err != nil {
		return nil, err
	}
	maker, err := rootfs.New(rootfs.Options{
		Layout: layout, Facts: f, Cgroups: p.cgroups, Handlers: handlers, MakeMissingSources: p.config.CreateMissingMountSources,
		Devices: cdi.Dirs(p.config.CDISpecDirs), SELinux: p.config.EnableSELinux && f.SELinux,
	})
	if err != nil {
		return nil, err
	}
	deps := pod.Deps{
		Store: records, Images: p.images.store, Network: p.network, Pinner: podns.New(layout), Bundles: maker, Runtime: p.monitor,
		Checkpoints: p.newCheckpoints(ctx, layout),
		Layout:      layout, BootID: f.BootID, Logger: p.logger, Now: time.Now,
	}
	if p.metrics != nil {
		deps.Ended = func(c pod.Container) { p.metrics.Exit(c.Reason) }
	}
	if p.nri, err = newNRI(p.config, version, f, p.cgroups, maker, layout, p.logger); err != nil {
		return nil, err
	}
	if p.nri != nil {
		deps.Plugins = p.nri
	}
	return pod.New(deps)
}

func handlersOf(runtimes map[string]Runtime, f hostinfo.Facts) (map[string]bundle.Handler, error) {
	out := make(map[string]bundle.Handler, len(runtimes))
	for name, r := range runtimes {
		if r.CgroupWritable && !f.CgroupV2 {
			return nil, fmt.Errorf("runtimes.%s.cgroup_writable: this host has cgroup v1, where who can write to a cgroup can take over the host: %w", name, errdefs.ErrFailedPrecondition)
		}
		out[name] = bundle.Handler{
			NoHostDevices: r.PrivilegedWithoutHostDevices, AllDevices: r.PrivilegedWithoutHostDevicesAllDevicesAllowed,
			WritableCgroup: r.CgroupWritable, PodAnnotations: r.PodAnnotations, ContainerAnnotations: r.ContainerAnnotations,
		}
	}
	return out, nil
}

func (p *parts) newCheckpoints(ctx context.Context, layout paths.Layout) *checkpoint.Checkpoints {
	runtimes := make(map[string]checkpoint.Runtime, len(p.runtimes))
	for handler, program := range p.runtimes {
		runtimes[handler] = checkpoint.Runtime{Path: program, Checkpoints: askRuntime(ctx, program).checkpoints}
	}
	return checkpoint.New(checkpoint.Options{Layout: layout, Freezer: p.monitor, Runtimes: runtimes, CRIU: "criu"})
}

func (p *parts) newStats(layout paths.Layout) (*stats.Collector, error) {
	mounts, err := cgroupfs.Find()
	if err != nil {
		return nil, err
	}
	return stats.New(stats.Options{
		Source: p.pods, Layout: layout, Mounts: mounts, Systemd: p.cgroups.Systemd, DefaultParent: p.cgroups.Parent,
		Interval: time.Duration(p.config.Stats.Interval), Logger: p.logger,
	})
}

// handlers are the OCI runtimes with what each can do on this host.
func (p *parts) handlers(ctx context.Context, f hostinfo.Facts, layout paths.Layout) []criserver.Handler {
	var out []criserver.Handler
	mapFault := podns.SupportsIDMap(layout.Images())
	for _, name := range slices.Sorted(maps.Keys(p.runtimes)) { // "" is the first
		can := askRuntime(ctx, p.runtimes[name])
		h := criserver.Handler{
			Name: name, RecursiveReadOnly: f.KernelAtLeast(5, 12) && can.recursiveReadOnly, Warning: runtimeWarning(ctx, p.runtimes[name]),
		}
		if h.Warning != "" {
			p.logger.Warn("OCI runtime", "handler", name, "warning", h.Warning)
		}
		switch {
		case !can.idMap:
			h.LacksUserNamespaces = p.runtimes[name] + " makes no ID-mapped mounts (runc can from version 1.2 on)"
		case mapFault != nil:
			h.LacksUserNamespaces = mapFault.Error()
		default:
			h.UserNamespaces = true
		}
		out = append(out, h)
	}
	return out
}

func (p *parts) newServer(ctx context.Context, o Options, f hostinfo.Facts, layout paths.Layout) (*criserver.Server, error) {
	var call func(string) func(string)
	if p.metrics != nil {
		call = p.metrics.Call
	}
	return criserver.New(criserver.Deps{
		Sandboxes: p.pods, Containers: p.pods, View: p.pods, Images: p.images, Network: p.network, Streams: p.streams,
		Resources: p.pods, Stats: p.stats, Events: p.pods, Checkpoints: p.pods,
		Healthy: p.health.last, Ready: p.ready, Call: call,
		Layout: layout, Handlers: p.handlers(ctx, f, layout), SystemdCgroup: p.cgroups.Systemd, Version: o.Version,
		Config: struct {
			StateDir     string            `json:"stateDir"`
			RootDir      string            `json:"rootDir"`
			CgroupParent string            `json:"cgroupParent"`
			Runtimes     map[string]string `json:"runtimes"`
			Config       Config            `json:"config"`
		}{layout.State, layout.Root, p.cgroups.Parent, p.runtimes, p.config},
		Logger: p.logger,
	})
}
