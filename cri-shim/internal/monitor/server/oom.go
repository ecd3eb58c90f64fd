package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// oomWatch learns that the kernel kills for want of memory while a container still runs. Where systemd makes the
// cgroups it also removes them, and the count of kills with them, as soon as the last process ends, which may be
// before we hear of that end, and of the count: the kernel counts first and kills then, and tells of a count every 10 ms at most. The
// count of the parent, in which those of its children are, stays: by it a container is known that the kernel killed unheard.
type oomWatch struct {
	file *os.File // inotify(7)
	done sync.WaitGroup

	// mu is held while a count is read, a file in memory: who forgets a cgroup waits for the event that is looked at.
	mu      sync.Mutex
	watched map[int32]cgroup    // guarded by mu; watch descriptor → cgroup
	seen    map[string]oomCount // guarded by mu; by the path of the cgroup
}

// oomCount is how many processes the kernel has killed.
type oomCount struct {
	own    int
	parent int // those of the parent that are not this cgroup's
}

// newOOMWatch returns nil, which watches nothing, on a host without cgroup v2.
func newOOMWatch(h hierarchies) (*oomWatch, error) {
	if h.Unified == "" {
		return nil, nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch for killings: %w", err)
	}
	w := &oomWatch{file: os.NewFile(uintptr(fd), "inotify"), watched: map[int32]cgroup{}, seen: map[string]oomCount{}}
	w.done.Go(w.follow)
	return w, nil
}

func (w *oomWatch) close() {
	if w != nil {
		_ = w.file.Close()
		w.done.Wait()
	}
}

// add watches a cgroup from now on; one that is gone already is left to whoever looks for its end.
func (w *oomWatch) add(c cgroup) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var id int
	var fault error
	err = raw.Control(func(fd uintptr) {
		id, fault = unix.InotifyAddWatch(int(fd), filepath.Join(c.h.Unified+c.path, "memory.events"), unix.IN_MODIFY)
	})
	if err = errors.Join(err, fault); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return fmt.Errorf("watch cgroup %s: %w", c.path, err)
	}
	w.watched[int32(id)] = c
	parent, _ := c.parent().oomKills()
	own, _ := c.oomKills() // it may have happened before the watch
	w.seen[c.path] = oomCount{own, parent - own}
	return nil
}

// forget says whether the kernel has killed in a cgroup, whose container has ended; by a SIGKILL or not.
func (w *oomWatch) forget(c cgroup, sigkill bool) bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look(c)
	count, compared := w.seen[c.path] // not when the cgroup was gone before it could be watched
	if _, known := c.oomKills(); compared && !known && count.own == 0 && sigkill {
		if parent, _ := c.parent().oomKills(); parent > count.parent {
			w.take(c, parent-count.parent)
			count.own = parent - count.parent
		}
	}
	delete(w.seen, c.path)
	for id, of := range w.watched {
		if of.path == c.path {
			delete(w.watched, id)
			w.unwatch(id)
		}
	}
	return count.own > 0
}

// unwatch ends a watch; one that has ended with its cgroup is success.
func (w *oomWatch) unwatch(id int32) {
	raw, err := w.file.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(id)) })
	}
}

// look reads a cgroup's count. The caller holds mu.
func (w *oomWatch) look(c cgroup) {
	count, known := w.seen[c.path]
	if own, readable := c.oomKills(); known && readable && own > count.own {
		w.take(c, own-count.own)
		count.own = own
		w.seen[c.path] = count
	}
}

// take puts kills down to one cgroup, so that they are not a sibling's. The caller holds mu.
func (w *oomWatch) take(c cgroup, kills int) {
	for path, count := range w.seen {
		if path != c.path && filepath.Dir(path) == filepath.Dir(c.path) {
			count.parent += kills
			w.seen[path] = count
		}
	}
}

// parent is the cgroup above.
func (c cgroup) parent() cgroup { return cgroup{h: c.h, path: filepath.Dir(c.path)} }

// follow takes events until the file is closed. Their masks need no look but for a watch's end: a cgroup's removal.
func (w *oomWatch) follow() {
	buf := make([]byte, 64*unix.SizeofInotifyEvent)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		w.mu.Lock()
		for events := buf[:n]; len(events) >= unix.SizeofInotifyEvent; {
			id, mask := int32(binary.NativeEndian.Uint32(events)), binary.NativeEndian.Uint32(events[4:])
			events = events[min(len(events), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:]))):]
			if mask&unix.IN_IGNORED != 0 {
				delete(w.watched, id)
			} else if c, ok := w.watched[id]; ok {
				w.look(c)
			}
		}
		w.mu.Unlock()
	}
}
