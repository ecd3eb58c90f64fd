package pod

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// operation is one piece of work in flight. Callers that ask for the same work join it.
type operation struct {
	key   string
	done  chan struct{}
	id    ID    // result; valid after done
	err   error // result; valid after done
	stage atomic.Pointer[stage]
	grace grace // used by stops only
}

type stage struct {
	name  string
	since time.Time
}

// at names what the operation does now, for the error of a caller that stops waiting.
func (o *operation) at(name string) { o.stage.Store(&stage{name, time.Now()}) }

// wait returns the result, or an error that says where the work stands when ctx ends first.
// The work goes on.
func (o *operation) wait(ctx context.Context) (ID, error) {
	select {
	case <-o.done:
		return o.id, o.err
	case <-ctx.Done():
		s := o.stage.Load()
		return "", fmt.Errorf("%s: still at %s, for %s: %w", o.key, s.name, time.Since(s.since).Round(time.Millisecond), ctx.Err())
	}
}

// Operation is a piece of work in flight, as others see it.
type Operation struct {
	Kind  string    // like "create container"
	Stage string    // what it does now
	Since time.Time // when it began with that
}

// Operations are those in flight.
func (m *Manager) Operations() []Operation {
	m.ops.mu.Lock()
	defer m.ops.mu.Unlock()
	out := make([]Operation, 0, len(m.ops.byKey))
	for key, op := range m.ops.byKey {
		kind := key
		if words := strings.SplitN(key, " ", 3); len(words) == 3 {
			kind = words[0] + " " + words[1]
		}
		s := op.stage.Load()
		out = append(out, Operation{kind, s.name, s.since})
	}
	return out
}

// operations holds the work in flight by key. It owns the goroutines that do it: they end under
// their own deadline, not the caller's.
type operations struct {
	base context.Context // parent of all work; cancelled last
	wg   sync.WaitGroup

	mu    sync.Mutex
	byKey map[string]*operation // guarded by mu
}

func newOperations(base context.Context) *operations {
	return &operations{base: base, byKey: make(map[string]*operation)}
}

// do joins the operation key, or begins it with f under a deadline of its own.
func (o *operations) do(ctx context.Context, key string, limit time.Duration, f func(context.Context, *operation) (ID, error)) (ID, error) {
	return o.begin(key, limit, f).wait(ctx)
}

func (o *operations) begin(key string, limit time.Duration, f func(context.Context, *operation) (ID, error)) *operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	if op, ok := o.byKey[key]; ok {
		return op
	}
	op := &operation{key: key, done: make(chan struct{}), grace: newGrace()}
	op.at("its begin")
	o.byKey[key] = op
	o.wg.Go(func() {
		ctx, cancel := context.WithTimeout(o.base, limit)
		defer cancel()
		defer o.end(op)
		op.id, op.err = f(ctx, op)
	})
	return op
}

func (o *operations) end(op *operation) {
	o.mu.Lock()
	delete(o.byKey, op.key)
	o.mu.Unlock()
	close(op.done)
}

// settle waits until no operation is in flight whose key begins with prefix.
func (o *operations) settle(ctx context.Context, prefix string) error {
	for {
		op := o.first(prefix)
		if op == nil {
			return nil
		}
		if _, err := op.wait(ctx); err != nil && ctx.Err() != nil {
			return err
		}
	}
}

func (o *operations) first(prefix string) *operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, op := range o.byKey {
		if strings.HasPrefix(key, prefix) {
			return op
		}
	}
	return nil
}

// keyedLock gives one holder per id; waiting ends with the context.
type keyedLock struct {
	mu   sync.Mutex
	held map[ID]*heldLock // guarded by mu
}

type heldLock struct {
	slot  chan struct{}
	users int
}

func newKeyedLock() *keyedLock { return &keyedLock{held: make(map[ID]*heldLock)} }

// lock returns the function that unlocks.
func (k *keyedLock) lock(ctx context.Context, id ID) (func(), error) {
	k.mu.Lock()
	h := k.held[id]
	if h == nil {
		h = &heldLock{slot: make(chan struct{}, 1)}
		k.held[id] = h
	}
	h.users++
	k.mu.Unlock()

	select {
	case h.slot <- struct{}{}:
		return func() { <-h.slot; k.leave(id, h) }, nil
	case <-ctx.Done():
		k.leave(id, h)
		return nil, fmt.Errorf("wait for another operation on %s: %w", id, ctx.Err())
	}
}

func (k *keyedLock) leave(id ID, h *heldLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(k.held, id)
	}
}

// background runs f, which the operations own like all other work.
func (o *operations) background(f func(context.Context)) {
	o.wg.Go(func() { f(o.base) })
}
