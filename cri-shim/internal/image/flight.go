package image

import (
	"context"
	"sync"
)

// flights lets equal pulls at the same time share one piece of work. It ends when nobody waits any more.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight // guarded by mu
	wg    sync.WaitGroup
}

type flight struct {
	waiting int // guarded by flights.mu
	cancel  context.CancelFunc
	done    chan struct{}
	id      string // valid after done
	err     error  // valid after done
}

func (f *flights) do(ctx context.Context, key string, work func(context.Context) (string, error)) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	f.mu.Lock()
	fl := f.byKey[key]
	if fl == nil {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		fl = &flight{cancel: cancel, done: make(chan struct{})}
		f.byKey[key] = fl
		f.wg.Go(func() {
			fl.id, fl.err = work(own)
			cancel()
			f.leave(key, fl, true)
			close(fl.done)
		})
	}
	fl.waiting++
	f.mu.Unlock()
	select {
	case <-fl.done:
		return fl.id, fl.err
	case <-ctx.Done():
		f.leave(key, fl, false)
		return "", ctx.Err()
	}
}

// leave takes a caller off, or the work; a new caller must not join what is about to be cancelled.
func (f *flights) leave(key string, fl *flight, finished bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !finished {
		fl.waiting--
	}
	if finished || fl.waiting == 0 {
		fl.cancel()
		if f.byKey[key] == fl {
			delete(f.byKey, key)
		}
	}
}

// close cancels all work and waits for it.
func (f *flights) close() {
	f.mu.Lock()
	for _, fl := range f.byKey {
		fl.cancel()
	}
	f.mu.Unlock()
	f.wg.Wait()
}
