package crishim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	healthAge   = 5 * time.Second
	healthLimit = 20 * time.Second
)

// health keeps the last answer to "can containers be run?", so that a status never waits for a monitor
// that is being started. Only run asks.
type health struct {
	check func(context.Context) error
	ask   chan struct{} // one slot

	mu  sync.Mutex
	err error     // guarded by mu
	at  time.Time // guarded by mu
}

func newHealth(check func(context.Context) error) *health {
	return &health{
		check: check, ask: make(chan struct{}, 1),
		err: fmt.Errorf("cri-monitor has not answered yet: %w", errdefs.ErrUnavailable),
	}
}

// run asks once at the start, and then when somebody found the answer old, until ctx ends.
func (h *health) run(ctx context.Context) error {
	for {
		h.refresh(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-h.ask:
		}
	}
}

func (h *health) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	err := h.check(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err, h.at = err, time.Now()
}

// last returns the last answer and has an old one renewed.
func (h *health) last() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) > healthAge {
		select {
		case h.ask <- struct{}{}:
		default:
		}
	}
	return h.err
}
