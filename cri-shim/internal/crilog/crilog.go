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
	"os"
	"path/filepath"
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

// Log is the log file of one container. A nil file discards: the output must still be drained.
type Log struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	f       *os.File // guarded by mu; nil: discard
	buf     []byte   // guarded by mu; reused
	dropped int      // guarded by mu; lines the disk refused
}

// Open opens, or makes, the log file at path; "" discards. It refuses what is not a regular file, and
// does not follow a symbolic link in the last component.
func Open(path string, now func() time.Time) (*Log, error) {
	l := &Log{path: path, now: now}
	if path == "" {
		return l, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	l.f = f
	return l, nil
}

func openFile(path string) (*os.File, error) {
	// O_NONBLOCK: a FIFO in the place of the file must not stop us.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	return f, nil
}

// Reopen opens the file anew, after it was renamed. A line is in the old file or in the new one.
func (l *Log) Reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := openFile(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	old := l.f
	l.f = f
	l.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	l.buf = l.buf[:0]
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
	if cap(l.buf) > 128*1024 {
		l.buf = nil
	}
}
