package podnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/thread"
)

const (
	checkLimit = 10 * time.Second // how long the plugins may take for one attachment
	checkRest  = 9                // for every second of checks at least so many without
	checkNice  = 10               // nice(2) of plugins that check
)

// Pods says what is attached now.
type Pods interface {
	// Attached are the sandboxes that are Ready and attached. A sandbox that is about to be given back is
	// not among them.
	Attached() []pod.ID
	// Attachment is one of them; false when it is none any more.
	Attachment(pod.ID) (pod.Attachment, bool)
}

// checks are the results of CNI CHECK, and who keeps one from being made.
type checks struct {
	mu      sync.Mutex
	results map[pod.ID]pod.NetworkCheck // guarded by mu, as all below
	working map[pod.ID]int              // ADD and DEL at work or waiting, by sandbox
	current *check                      // the one in flight
}

type check struct {
	id     pod.ID
	cancel context.CancelFunc
	done   chan struct{}
}

func newChecks() checks {
	return checks{results: map[pod.ID]pod.NetworkCheck{}, working: map[pod.ID]int{}}
}

// Checked is the result of the last CNI CHECK of a sandbox; false when none was made. It never waits.
func (n *Network) Checked(id pod.ID) (pod.NetworkCheck, bool) {
	n.checks.mu.Lock()
	defer n.checks.mu.Unlock()
	c, ok := n.checks.results[id]
	return c, ok
}

// Check has the plugins check every attachment once per interval, one at a time and evenly spread, until
// ctx ends. It takes less often than that what is slow. A result changes no sandbox.
func (n *Network) Check(ctx context.Context, interval time.Duration, pods Pods) error {
	for {
		ids := pods.Attached()
		n.checks.keepOnly(ids)
		rest := interval / time.Duration(max(len(ids), 1))
		if !sleep(ctx, rest) {
			return nil
		}
		for _, id := range ids {
			begin := time.Now()
			n.checkOne(ctx, id, pods)
			if !sleep(ctx, max(rest, checkRest*time.Since(begin))) {
				return nil
			}
		}
	}
}

// sleep is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// checkOne checks one attachment, unless somebody changes it.
func (n *Network) checkOne(ctx context.Context, id pod.ID, pods Pods) {
	if !n.busy.TryAcquire(1) {
		return // GC
	}
	defer n.busy.Release(1)
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	c := &check{id: id, cancel: cancel, done: make(chan struct{})}
	if !n.checks.begin(c) {
		return
	}
	defer n.checks.end(c)
	// Asked only now: whoever gives the attachment back marks the sandbox first, and then finds this check.
	a, ok := pods.Attachment(id)
	if !ok {
		return
	}
	list, err := n.checkable(a)
	if err != nil || list == nil {
		n.Logger.Debug("CNI CHECK left out", "pod", id, "err", err)
		return
	}
	capabilities, err := capabilityArgs(a)
	if err == nil {
		err = thread.Scratch(func() error {
			// The plugins inherit it from the thread that starts them.
			_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), checkNice)
			return n.cni.CheckNetworkList(ctx, list, runtimeConf(a, capabilities))
		})
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled) || unsupported(err):
		return
	case err != nil:
		err = fmt.Errorf("CNI CHECK %s: %w", list.Name, classify(ctx, err))
	}
	n.conclude(a, err)
}

// checkable returns the configuration that the sandbox was attached by; nil when it has none that can be checked.
func (n *Network) checkable(a pod.Attachment) (*libcni.NetworkConfigList, error) {
	conf, err := os.ReadFile(n.intent(string(a.ID)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := libcni.NetworkConfFromBytes(conf)
	if err != nil || list.DisableCheck {
		return nil, err
	}
	if has, err := version.GreaterThanOrEqualTo(list.CNIVersion, "0.4.0"); err != nil || !has {
		return nil, err
	}
	// CHECK without the result of ADD is against the specification.
	res, err := n.cni.GetNetworkListCachedResult(list, runtimeConf(a, nil))
	if err != nil || res == nil {
		return nil, err
	}
	return list, nil
}

// unsupported says whether a plugin is older than CHECK: nothing is known then.
func unsupported(err error) bool {
	var plugin *types.Error
	return errors.As(err, &plugin) && plugin.Code == types.ErrIncompatibleCNIVersion
}

// conclude keeps a result, and logs when it is another one than the last.
func (n *Network) conclude(a pod.Attachment, err error) {
	was, now := n.checks.note(a.ID, err)
	log := n.Logger.With("pod", a.ID, "namespace", a.Namespace, "name", a.Name)
	switch {
	case was == now.Fault:
	case now.Fault == "":
		log.Info("the network of a pod is as it should be again")
	default:
		log.Warn("the network of a pod is not as it was made", "err", now.Fault)
	}
}

func (c *checks) note(id pod.ID, err error) (was string, now pod.NetworkCheck) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = c.results[id]
	was = now.Fault
	now.At, now.Fault = time.Now(), ""
	now.Checks++
	if err != nil {
		now.Failures++
		now.Fault = err.Error()
	}
	if now.Since.IsZero() || was != now.Fault {
		now.Since = now.At
	}
	c.results[id] = now
	return was, now
}

// keepOnly forgets the results of all others.
func (c *checks) keepOnly(ids []pod.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := make(map[pod.ID]pod.NetworkCheck, len(ids))
	for _, id := range ids {
		if r, ok := c.results[id]; ok {
			kept[id] = r
		}
	}
	c.results = kept
}

// begin is false while an ADD or a DEL of the same sandbox is at work.
func (c *checks) begin(ch *check) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.working[ch.id] > 0 {
		return false
	}
	c.current = ch
	return true
}

func (c *checks) end(ch *check) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = nil
	close(ch.done)
}

// giveWay is for whoever is about to change an attachment: a check of it is cut off, and none begins until
// done is called. It waits for the plugin to be gone, because CNI allows one operation per attachment at a time.
func (c *checks) giveWay(ctx context.Context, id pod.ID) (done func(), err error) {
	c.mu.Lock()
	c.working[id]++
	current := c.current
	c.mu.Unlock()
	done = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.working[id]--; c.working[id] == 0 {
			delete(c.working, id)
		}
	}
	if current == nil || current.id != id {
		return done, nil
	}
	current.cancel()
	select {
	case <-current.done:
		return done, nil
	case <-ctx.Done():
		done()
		return nil, fmt.Errorf("wait for CNI CHECK to end: %w", ctx.Err())
	}
}
