package stats

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// sample is a CPU counter, in nanoseconds, at a moment.
type sample struct {
	at  time.Time
	cpu uint64
}

// history holds the last two samples: the newer one may be too young to tell a rate.
type history struct{ older, newer sample }

// minWindow is the shortest time over which CPU per second means something: a few ticks of the scheduler's
// bandwidth periods.
const minWindow = time.Second

// rate returns CPU nanoseconds per second from the youngest sample that is old enough up to now. With no
// sample at all, now becomes the first one.
func (c *Collector) rate(id pod.ID, now sample) *uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.samples[id]
	if !ok {
		c.samples[id] = history{newer: now}
		return nil
	}
	for _, base := range []sample{h.newer, h.older} {
		window := now.at.Sub(base.at)
		if base.at.IsZero() || window < minWindow || now.cpu < base.cpu {
			continue
		}
		rate := uint64(float64(now.cpu-base.cpu) / window.Seconds())
		return &rate
	}
	return nil
}

func (c *Collector) note(id pod.ID, now sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples[id] = history{older: c.samples[id].newer, newer: now}
}

func (c *Collector) sampleForEver(ctx context.Context) {
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	for {
		c.sampleAll()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sampleAll notes every CPU counter once, and forgets those of what is gone.
func (c *Collector) sampleAll() {
	seen := map[pod.ID]bool{}
	note := func(id pod.ID, path string) {
		seen[id] = true
		if cpu, err := c.reader.cpu(path); err == nil {
			c.note(id, sample{time.Now(), cpu})
		} else if !errdefs.IsNotFound(err) {
			c.Logger.Warn("sample CPU time", "id", id, "err", err)
		}
	}
	for _, ctr := range c.Source.Containers() {
		if path, err := cgroupfs.Path(ctr.CgroupPath); err == nil && ctr.State == pod.Running {
			note(ctr.ID, path)
		}
	}
	for _, s := range c.Source.Sandboxes() {
		path := c.ownCgroup(s)
		if path == "" && s.InitPID != 0 {
			path = c.initCgroup(s)
		}
		if path != "" && s.State == pod.Ready {
			note(s.ID, path)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.samples {
		if !seen[id] {
			delete(c.samples, id)
		}
	}
}

// layer is the last measurement; tried says whether there was a look at it at all.
func (c *Collector) layer(id pod.ID) (l *Layer, tried bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, tried := c.layers[id]
	if last.At.IsZero() {
		return nil, tried
	}
	return &last, tried
}

// keep notes a measurement. One that failed leaves the last good one standing.
func (c *Collector) keep(id pod.ID, l Layer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.At.IsZero() {
		l = c.layers[id]
	}
	c.layers[id] = l
}

// wakeUp has the layers measured that never were, without waiting for it.
func (c *Collector) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// measureForEver adds up all layers again and again. A pass that takes long is followed by a long pause, so
// that it never costs more than a fifth of one processor.
func (c *Collector) measureForEver(ctx context.Context) {
	for {
		begin := time.Now()
		c.measureAll(ctx, false)
		pause := time.NewTimer(max(c.Interval, 4*time.Since(begin)))
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				pause.Stop()
				return
			case <-c.wake:
				c.measureAll(ctx, true)
			case <-pause.C:
				waiting = false
			}
		}
	}
}

// measureAll measures one layer after the other, or only those never measured, and forgets those of
// containers that are gone.
func (c *Collector) measureAll(ctx context.Context, onlyNew bool) {
	seen := map[pod.ID]bool{}
	for _, ctr := range c.Source.Containers() {
		seen[ctr.ID] = true
		if ctx.Err() != nil {
			return
		}
		if _, tried := c.layer(ctr.ID); onlyNew && tried {
			continue
		}
		l, err := measure(ctx, c.Layout.Upper(string(ctr.SandboxID), string(ctr.ID)))
		if err == nil {
			l.At = time.Now()
		} else if !errdefs.IsNotFound(err) && ctx.Err() == nil {
			c.Logger.Warn("measure a writable layer", "container", ctr.ID, "err", err)
		}
		c.keep(ctr.ID, l)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.layers {
		if !seen[id] {
			delete(c.layers, id)
		}
	}
}
