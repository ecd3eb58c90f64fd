package podnet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
)

const (
	statusAge   = 5 * time.Second  // how long an answer of the plugins is good for
	statusLimit = 10 * time.Second // how long plugins may take
	firstWait   = time.Second      // see Network.firstWait
)

// statusCache keeps the last answer to CNI STATUS. Run asks; callers never do.
type statusCache struct {
	ask chan *probe

	mu      sync.Mutex
	of      string // the configuration that was asked about; guarded by mu, as all below
	err     error
	at      time.Time
	pending *probe
}

// probe is one question in flight.
type probe struct {
	list *libcni.NetworkConfigList
	key  string
	done chan struct{}
}

// Run asks plugins for their status when somebody wants to know, until ctx ends.
func (n *Network) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-n.status.ask:
			n.answer(ctx, p)
		}
	}
}

func (n *Network) answer(ctx context.Context, p *probe) {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	err := n.cni.GetStatusNetworkList(ctx, p.list)
	if ctx.Err() != nil && err != nil {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		err = fmt.Errorf("CNI STATUS %s: %w", p.list.Name, err)
	}
	n.status.mu.Lock()
	defer n.status.mu.Unlock()
	n.status.of, n.status.err, n.status.at, n.status.pending = p.key, err, time.Now(), nil
	close(p.done)
}

// Ready is nil when a sandbox can be attached: there is a configuration, its plugins are installed,
// and, from CNI 1.1 on, they say so themselves.
func (n *Network) Ready() error {
	list, err := n.load()
	if err != nil {
		return err
	}
	if err := n.installed(list); err != nil {
		return err
	}
	key, err := render(list)
	if err != nil {
		return fmt.Errorf("CNI configuration of network %s: %w", list.Name, err)
	}
	known, p, err := n.status.last(list, string(key))
	if known {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(n.firstWait):
		return fmt.Errorf("CNI STATUS %s: not answered yet: %w", list.Name, errdefs.ErrUnavailable)
	}
	known, _, err = n.status.last(list, string(key))
	if !known {
		return fmt.Errorf("CNI STATUS %s: the configuration has just changed: %w", list.Name, errdefs.ErrUnavailable)
	}
	return err
}

// last returns the last answer, and asks anew when it is old. known is false before the first answer.
func (s *statusCache) last(list *libcni.NetworkConfigList, key string) (known bool, p *probe, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known = s.of == key && !s.at.IsZero()
	if known && time.Since(s.at) < statusAge {
		return true, nil, s.err
	}
	if s.pending == nil {
		s.pending = &probe{list: list, key: key, done: make(chan struct{})}
		s.ask <- s.pending // one slot, and only one is ever pending
	}
	return known, s.pending, s.err
}
