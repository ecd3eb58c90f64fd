package podnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sync/semaphore"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/durable"
)

// ifName is the interface that a pod gets.
const ifName = "eth0"

// everyone is more than the attachments that can be at work at one time.
const everyone = 1 << 30

// Options are the parts of a Network.
type Options struct {
	ConfDir  string   // the first *.conflist, *.conf or *.json in it counts
	BinDirs  []string // searched in this order for plugins
	CacheDir string   // libcni's results and our intents; survives a reboot
	// UsersDir is the same for all runtimes of this kind on the host: there they tell each other
	// which networks they use. It does not survive a reboot.
	UsersDir string
	// Template makes the configuration when the node gets its pod ranges; empty: somebody else does.
	Template string
	PreferV6 bool // the pod's first address is IPv6
	// Executed is told of each execution of a plugin; nil: nobody is.
	Executed func(plugin, command string, took time.Duration, err error)
	Logger   *slog.Logger
}

// Network implements pod.Network.
type Network struct {
	Options
	cni    *libcni.CNIConfig
	busy   *semaphore.Weighted // ADD, DEL and CHECK take one, GC takes everyone
	status statusCache
	checks checks
	// firstWait is how long the first question about a configuration waits for the plugins' answer.
	// Later ones get the last answer at once.
	firstWait time.Duration

	// signing keeps an intent and our signature on its network together. It is held over a few tiny
	// local files only.
	signing sync.Mutex
}

// New checks the parts and makes the cache directory. It starts nothing.
func New(o Options) (*Network, error) {
	if o.ConfDir == "" || len(o.BinDirs) == 0 || o.CacheDir == "" || o.UsersDir == "" || o.Logger == nil {
		return nil, fmt.Errorf("pod network: a part is missing: %w", errdefs.ErrInvalidArgument)
	}
	n := &Network{Options: o, busy: semaphore.NewWeighted(everyone), status: statusCache{ask: make(chan *probe, 1)}, firstWait: firstWait, checks: newChecks()}
	if err := os.MkdirAll(n.intents(), 0o700); err != nil {
		return nil, fmt.Errorf("make the CNI cache: %w", err)
	}
	n.cni = libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.CacheDir, newProgram(o))
	return n, nil
}

// Attach makes eth0 in the sandbox's network namespace. Repeating it gives back first what an earlier
// call left.
func (n *Network) Attach(ctx context.Context, a pod.Attachment) (pod.NetworkResult, error) {
	capabilities, err := capabilityArgs(a)
	if err != nil {
		return pod.NetworkResult{}, err
	}
	if err := n.busy.Acquire(ctx, 1); err != nil {
		return pod.NetworkResult{}, fmt.Errorf("wait for CNI GC: %w", err)
	}
	defer n.busy.Release(1)
	done, err := n.checks.giveWay(ctx, a.ID)
	if err != nil {
		return pod.NetworkResult{}, err
	}
	defer done()
	list, err := n.load()
	if err != nil {
		return pod.NetworkResult{}, err
	}
	if err := n.installed(list); err != nil {
		return pod.NetworkResult{}, err
	}
	if _, err := os.Stat(n.intent(string(a.ID))); err == nil {
		if err := n.detach(ctx, a); err != nil {
			return pod.NetworkResult{}, err
		}
	}
	if err := n.intend(a, list); err != nil {
		return pod.NetworkResult{}, err
	}
	// Crash from here on: the intent makes a DEL with this configuration possible.
	res, err := n.cni.AddNetworkList(ctx, list, runtimeConf(a, capabilities))
	if err != nil {
		return pod.NetworkResult{}, fmt.Errorf("CNI ADD %s: %w", list.Name, classify(ctx, err))
	}
	ips, err := addresses(res, n.PreferV6)
	if err != nil {
		return pod.NetworkResult{}, fmt.Errorf("CNI ADD %s: %w", list.Name, err)
	}
	return pod.NetworkResult{IPs: ips}, nil
}

func (n *Network) intend(a pod.Attachment, list *libcni.NetworkConfigList) error {
	b, err := render(list)
	if err != nil {
		return fmt.Errorf("keep the configuration of network %s: %w", list.Name, err)
	}
	n.signing.Lock()
	defer n.signing.Unlock()
	if err := durable.WriteFile(n.intent(string(a.ID)), b, 0o600, durable.NoSync); err != nil {
		return err
	}
	return n.sign(list.Name)
}

// Detach gives back what Attach made, also when the namespace, the cached result or the configuration
// is gone.
func (n *Network) Detach(ctx context.Context, a pod.Attachment) error {
	if err := n.busy.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait for CNI GC: %w", err)
	}
	defer n.busy.Release(1)
	done, err := n.checks.giveWay(ctx, a.ID)
	if err != nil {
		return err
	}
	defer done()
	return n.detach(ctx, a)
}

func (n *Network) detach(ctx context.Context, a pod.Attachment) error {
	conf, err := os.ReadFile(n.intent(string(a.ID)))
	if errors.Is(err, fs.ErrNotExist) {
		return n.detachUnknown(ctx, a)
	}
	if err != nil {
		return fmt.Errorf("read what the sandbox is attached to: %w", err)
	}
	list, err := libcni.NetworkConfFromBytes(conf)
	if err != nil {
		// Torn by a power cut, which took the interface along; only an address may be left.
		n.Logger.Warn("the kept CNI configuration cannot be read", "pod", a.ID, "err", err)
		err = n.detachUnknown(ctx, a)
	} else {
		err = n.del(ctx, list, a)
	}
	if err != nil {
		return err
	}
	n.signing.Lock()
	defer n.signing.Unlock()
	err = os.Remove(n.intent(string(a.ID)))
	switch {
	case errors.Is(err, syscall.EROFS):
		// The disk fails. A pod that cannot be ended cannot be moved to another node; GC finds the intent after the repair.
		n.Logger.Warn("an attachment was given back and cannot be forgotten", "pod", a.ID, "err", err)
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("forget the attachment: %w", err)
	}
	return n.unsign()
}

// detachUnknown serves a sandbox without an intent: nothing was attached, or the cache was emptied by
// hand. It tries what can be tried, and never stands in the way of a removal.
func (n *Network) detachUnknown(ctx context.Context, a pod.Attachment) error {
	list, err := n.load()
	if err == nil {
		err = n.del(ctx, list, a)
	}
	if err != nil {
		n.Logger.Warn("give back what an unknown attachment may hold", "pod", a.ID, "err", err)
	}
	return ctx.Err()
}

func (n *Network) del(ctx context.Context, list *libcni.NetworkConfigList, a pod.Attachment) error {
	if _, err := os.Stat(a.NetNS); err != nil {
		a.NetNS = ""
	}
	capabilities, err := capabilityArgs(a)
	if err != nil {
		n.Logger.Debug("capability arguments for DEL", "pod", a.ID, "err", err) // what ADD refused, DEL can do without
	}
	// The namespace is unpinned right after: a plugin that knows may leave the link to the kernel.
	capabilities["io.podwright.netns-destroyed"] = true
	if err := n.cni.DelNetworkList(ctx, list, runtimeConf(a, capabilities)); err != nil {
		return fmt.Errorf("CNI DEL %s: %w", list.Name, classify(ctx, err))
	}
	return nil
}

func runtimeConf(a pod.Attachment, capabilities map[string]any) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: string(a.ID), NetNS: a.NetNS, IfName: ifName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", a.Namespace},
			{"K8S_POD_NAME", a.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", string(a.ID)},
			{"K8S_POD_UID", a.UID},
		},
		CapabilityArgs: capabilities,
	}
}

// classify tells a plugin that was killed at a deadline from one that failed, and one that asks to be
// tried again.
func classify(ctx context.Context, err error) error {
	var plugin *types.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", err, ctx.Err())
	case errors.As(err, &plugin) && plugin.Code == types.ErrTryAgainLater:
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return err
}

// stderrLog keeps what plugins write to stderr, which is meant for people.
type stderrLog struct{ logger *slog.Logger }

func (s stderrLog) Write(p []byte) (int, error) {
	const most = 4 << 10
	s.logger.Info("CNI plugin", "stderr", string(bytes.TrimSpace(p[:min(len(p), most)])))
	return len(p), nil
}

// attached returns the ids that have an intent.
func (n *Network) attached() ([]string, error) {
	entries, err := os.ReadDir(n.intents())
	if err != nil {
		return nil, fmt.Errorf("read what is attached: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := cutExt(e.Name()); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func cutExt(name string) (string, bool) {
	ext := filepath.Ext(name)
	return name[:len(name)-len(ext)], ext == ".conflist"
}
