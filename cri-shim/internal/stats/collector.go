package stats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Source is what there is to measure.
type Source interface {
	Sandboxes() []pod.Sandbox
	Containers() []pod.Container
}

// Options are the parts of a Collector; all are needed but DefaultParent.
type Options struct {
	Source  Source
	Layout  paths.Layout
	Mounts  cgroupfs.Mounts
	Systemd bool // cgroup parents are slices
	// DefaultParent is the cgroup of sandboxes that name none. It holds many pods, and so says nothing of one.
	DefaultParent string
	// Interval is how often the background work is done: writable layers are added up, and CPU counters
	// noted to tell CPU per second.
	Interval time.Duration
	Logger   *slog.Logger
}

// Collector measures containers and sandboxes.
type Collector struct {
	Options
	reader reader
	wake   chan struct{} // one slot: a container was asked for whose layer was never measured

	mu      sync.Mutex
	samples map[pod.ID]history // guarded by mu
	layers  map[pod.ID]Layer   // guarded by mu
}

// New checks the options and starts nothing.
func New(o Options) (*Collector, error) {
	if o.Source == nil || o.Logger == nil || o.Interval <= 0 {
		return nil, fmt.Errorf("stats: source, logger and interval are needed: %w", errdefs.ErrInvalidArgument)
	}
	return &Collector{
		Options: o, reader: reader{o.Mounts}, wake: make(chan struct{}, 1),
		samples: map[pod.ID]history{}, layers: map[pod.ID]Layer{},
	}, nil
}

// Run does the background work until ctx ends, and returns when none is left.
func (c *Collector) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { c.sampleForEver(ctx); return nil })
	g.Go(func() error { c.measureForEver(ctx); return nil })
	return g.Wait()
}

// Container reads what a container uses. One whose cgroup is gone is ErrNotFound.
func (c *Collector) Container(ctr pod.Container) (Container, error) {
	out := Container{Layer: c.Layer(ctr)}
	path, err := cgroupfs.Path(ctr.CgroupPath)
	if err == nil {
		out.Usage, err = c.reader.usage(path)
	}
	if err != nil {
		return out, fmt.Errorf("measure container %s: %w", ctr.ID, err)
	}
	out.Cgroup = path
	out.NanoCores = c.rate(ctr.ID, sample{out.At, out.CPU.Total})
	return out, nil
}

// Layer is the writable layer alone, of a container that may have ended; nil before it was measured.
func (c *Collector) Layer(ctr pod.Container) *Layer {
	l, tried := c.layer(ctr.ID)
	if !tried {
		c.wakeUp()
	}
	return l
}

// Details reads what only metrics show.
func (c *Collector) Details(ctr pod.Container) (Details, error) {
	path, err := cgroupfs.Path(ctr.CgroupPath)
	if err != nil {
		return Details{}, fmt.Errorf("measure container %s: %w", ctr.ID, err)
	}
	d, err := c.reader.details(path, ctr.PID)
	if err != nil {
		return d, fmt.Errorf("measure container %s: %w", ctr.ID, err)
	}
	return d, nil
}

// Sandbox reads what a pod uses: its own cgroup, or, where it has none to itself, the sum of its processes'
// cgroups. A pod in which nothing runs uses nothing, which is no error.
func (c *Collector) Sandbox(s pod.Sandbox) (Sandbox, error) {
	var out Sandbox
	var err error
	if path := c.ownCgroup(s); path != "" {
		out, err = c.wholeSandbox(s.ID, path)
	} else {
		out, err = c.sumOfSandbox(s)
	}
	if err == nil && !s.HostNetwork() {
		out.Network, err = readNetwork(filepath.Join(c.Layout.Namespaces(string(s.ID)), "net"))
	}
	if err != nil {
		return out, fmt.Errorf("measure sandbox %s: %w", s.ID, err)
	}
	return out, nil
}

// ownCgroup is the path of the cgroup that a kubelet made for this pod alone; "" when there is none, or when
// other pods are in it.
func (c *Collector) ownCgroup(s pod.Sandbox) string {
	parent := s.Config.CgroupParent
	if parent == "" || parent == c.DefaultParent {
		return ""
	}
	for _, other := range c.Source.Sandboxes() {
		if other.ID != s.ID && other.State == pod.Ready && other.Config.CgroupParent == parent {
			return ""
		}
	}
	return c.cgroupOfParent(parent)
}

func (c *Collector) cgroupOfParent(parent string) string {
	if c.Systemd {
		return cgroupfs.Slice(filepath.Base(parent))
	}
	path, err := cgroupfs.Path(parent)
	if err != nil {
		return ""
	}
	return path
}

func (c *Collector) wholeSandbox(id pod.ID, path string) (out Sandbox, err error) {
	out.Usage, err = c.reader.usage(path)
	if errdefs.IsNotFound(err) {
		return nothing(), nil
	}
	if err != nil {
		return out, err
	}
	out.Cgroup = path
	out.NanoCores = c.rate(id, sample{out.At, out.CPU.Total})
	out.Processes, err = c.reader.tasks(path)
	return out, err
}

func nothing() Sandbox {
	return Sandbox{Usage: Usage{At: time.Now(), Memory: Memory{Limit: None}, Swap: Swap{Limit: None}}}
}

func (c *Collector) sumOfSandbox(s pod.Sandbox) (Sandbox, error) {
	out := nothing()
	for id, path := range c.cgroupsOf(s) {
		u, err := c.reader.usage(path)
		if err == nil {
			u.Processes, err = c.reader.tasks(path)
		}
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return out, err
		}
		out.add(u)
		if rate := c.rate(id, sample{u.At, u.CPU.Total}); rate != nil {
			if out.NanoCores == nil {
				out.NanoCores = new(uint64)
			}
			*out.NanoCores += *rate
		}
	}
	return out, nil
}

// cgroupsOf are the cgroups of a pod's running containers and its init.
func (c *Collector) cgroupsOf(s pod.Sandbox) map[pod.ID]string {
	out := map[pod.ID]string{}
	for _, ctr := range c.Source.Containers() {
		if ctr.SandboxID != s.ID || ctr.State != pod.Running {
			continue
		}
		if path, err := cgroupfs.Path(ctr.CgroupPath); err == nil {
			out[ctr.ID] = path
		}
	}
	if s.InitPID != 0 {
		out[s.ID] = c.initCgroup(s)
	}
	return out
}

// initCgroup is the cgroup of the process that holds a shared PID namespace.
func (c *Collector) initCgroup(s pod.Sandbox) string {
	parent, leaf := s.Config.CgroupParent, string(s.ID)
	if parent == "" {
		parent = c.DefaultParent
	}
	if c.Systemd {
		leaf = "cri-shim-" + leaf + ".scope"
	}
	return filepath.Join(c.cgroupOfParent(parent), leaf)
}

// FileSystem is where writable layers are.
type FileSystem struct {
	Device             string // "/dev/sda1"; the directory where the kernel knows no name
	Bytes              uint64
	Inodes, FreeInodes uint64
}

// FileSystem measures the file system of the writable layers.
func (c *Collector) FileSystem() (FileSystem, error) {
	dir := c.Layout.Root
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(dir, &fs), unix.Stat(dir, &st)); err != nil {
		return FileSystem{}, fmt.Errorf("measure the file system of %s: %w", dir, err)
	}
	name := deviceName(strconv.Itoa(int(unix.Major(st.Dev))), strconv.Itoa(int(unix.Minor(st.Dev))))
	if name == "" {
		name = dir
	}
	return FileSystem{Device: name, Bytes: fs.Blocks * uint64(fs.Bsize), Inodes: fs.Files, FreeInodes: fs.Ffree}, nil
}
