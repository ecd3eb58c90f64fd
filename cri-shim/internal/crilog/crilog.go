// Package crilog writes container output in the Kubernetes log format (KEP-1602's text form):
//
//	<RFC3339Nano> stdout|stderr F|P <text>\n
//
// F ends a line, P does not. It owns the open log file; it never reads a container's output itself.
//
// Crash story: what Write returned for is in the page cache. The unterminated rest of a stream is kept by
// the caller, who hands it to the next Log as if it had just been read.
package crilog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MaxLine is the longest text of one log line, in bytes; longer ones are split and tagged P.
const MaxLine = 16 * 1024

// Stream is one of the two outputs of a container.
type Stream string

// The streams of a container.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Place says where a log lies. A container may be able to write there, so that any part of Name may be a link.
type Place struct {
	Dir  string // absolute; links on its way are the administrator's, and followed
	Name string // path below Dir, in which no link is followed; "" discards
}

// Log is the log file of one container. A nil file discards: the output must still be drained.
type Log struct {
	place Place
	now   func() time.Time

	mu      sync.Mutex
	f       *os.File // guarded by mu; nil: discard
	closed  bool     // guarded by mu; it is not opened again
	buf     []byte   // guarded by mu; of buffers, during a Write
	dropped int      // guarded by mu; lines the disk refused
}

// buffers are for those logs that are written at the moment.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxKept is the largest buffer that is used again.
const maxKept = 128 * 1024

// borrow gives the log a buffer, until the returned function is called.
func (l *Log) borrow() (giveBack func()) {
	b := buffers.Get().(*[]byte)
	l.buf = (*b)[:0]
	return func() {
		if cap(l.buf) <= maxKept {
			*b = l.buf
			buffers.Put(b)
		}
		l.buf = nil
	}
}

// New returns a log that discards until Open or Reopen has succeeded.
func New(p Place, now func() time.Time) *Log { return &Log{place: p, now: now} }

// Open opens the log's file, and makes it and the directories on its way when they are missing. It refuses what
// is not a regular file in directories that are no links.
func (l *Log) Open() error { return l.open(true) }

// Reopen opens the file anew, after it was renamed. A line is in the old file or in the new one. After Close it is
// fs.ErrClosed, and makes no file.
func (l *Log) Reopen() error { return l.open(false) }

func (l *Log) open(makeDirs bool) error {
	l.mu.Lock()
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return fmt.Errorf("open log %s: %w", filepath.Join(l.place.Dir, l.place.Name), fs.ErrClosed)
	}
	if l.place.Name == "" {
		return nil
	}
	f, err := openFile(l.place, makeDirs)
	if err != nil {
		return fmt.Errorf("open log %s: %w", filepath.Join(l.place.Dir, l.place.Name), err)
	}
	l.mu.Lock()
	old := l.f
	if l.closed { // meanwhile
		old = f
	} else {
		l.f = f
	}
	l.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

func openFile(p Place, makeDirs bool) (*os.File, error) {
	dir, err := openDir(p, makeDirs)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	// O_NONBLOCK: a FIFO in the place of the file must not stop us.
	fd, err := unix.Openat(dir, path.Base(p.Name), unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), p.Name)
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// openDir opens the directory of the file, from p.Dir on one step at a time: a link is ENOTDIR, and one that is
// put there later changes nothing.
func openDir(p Place, makeDirs bool) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	if makeDirs {
		if err := os.MkdirAll(p.Dir, 0o755); err != nil {
			return -1, err
		}
	}
	dir, err := unix.Open(p.Dir, flags, 0)
	if err != nil {
		return -1, err
	}
	steps := strings.Split(p.Name, "/")
	for i, step := range steps[:len(steps)-1] {
		if makeDirs {
			if err := unix.Mkdirat(dir, step, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				_ = unix.Close(dir)
				return -1, fmt.Errorf("make %s: %w", path.Join(steps[:i+1]...), err)
			}
		}
		next, err := unix.Openat(dir, step, flags|unix.O_NOFOLLOW, 0)
		_ = unix.Close(dir)
		if err != nil {
			return -1, fmt.Errorf("%s: %w", path.Join(steps[:i+1]...), err)
		}
		dir = next
	}
	return dir, nil
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}

// Write logs the complete lines in data, and the pieces of MaxLine bytes of a longer one, and returns how
// many bytes of data it took. The rest is to be offered again with what follows it; final takes the rest too,
// tagged P. A disk that refuses is not an error, because a container must not stop for it: the lines are
// counted, and the count is logged when the disk takes lines again.
func (l *Log) Write(s Stream, data []byte, final bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return len(data)
	}
	stamp := l.now().UTC().Format("2006-01-02T15:04:05.000000000Z07:00")
	defer l.borrow()()
	taken, lines := 0, 0
	for rest := data; len(rest) > 0; rest = data[taken:] {
		n := bytes.IndexByte(rest, '\n')
		switch {
		case n >= 0 && n <= MaxLine:
			l.line(stamp, s, 'F', rest[:n])
			taken += n + 1
		case len(rest) > MaxLine:
			l.line(stamp, s, 'P', rest[:MaxLine])
			taken += MaxLine
		case final:
			l.line(stamp, s, 'P', rest)
			taken += len(rest)
		default:
			l.flush(lines)
			return taken
		}
		lines++
	}
	l.flush(lines)
	return taken
}

func (l *Log) line(stamp string, s Stream, tag byte, text []byte) {
	l.buf = append(l.buf, stamp...)
	l.buf = append(l.buf, ' ')
	l.buf = append(l.buf, s...)
	l.buf = append(l.buf, ' ', tag, ' ')
	l.buf = append(l.buf, text...)
	l.buf = append(l.buf, '\n')
}

func (l *Log) flush(lines int) {
	if len(l.buf) == 0 {
		return
	}
	if l.dropped > 0 {
		note := fmt.Sprintf("%s stderr F cri-monitor: %d log lines were lost, the disk refused them\n", l.now().UTC().Format(time.RFC3339Nano), l.dropped)
		l.buf = append([]byte(note), l.buf...)
	}
	size, err := l.f.Seek(0, 2)
	if err == nil {
		_, err = l.f.Write(l.buf)
	}
	if err != nil {
		l.dropped += lines
		_ = l.f.Truncate(size) // no half line; the file is ours alone to append to
		return
	}
	l.dropped = 0
}
