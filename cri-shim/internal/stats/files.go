package stats

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// file is a reader of small kernel files that keeps its buffer. It is for one goroutine at a time.
type file struct{ buf []byte }

var files = sync.Pool{New: func() any { return &file{buf: make([]byte, 8<<10)} }}

// read returns the content, which is valid until the next read. A cgroup that is gone is ErrNotFound.
func (f *file) read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, classify(path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	for n := 0; ; {
		if n == len(f.buf) {
			f.buf = append(f.buf, make([]byte, len(f.buf))...)
		}
		k, err := unix.Read(fd, f.buf[n:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, classify(path, err)
		case k == 0:
			return f.buf[:n], nil
		default:
			n += k
		}
	}
}

func classify(path string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("read %s: %w: %w", path, err, errdefs.ErrNotFound)
	}
	return fmt.Errorf("read %s: %w", path, err)
}

// number reads a file of one number; "max" is None.
func (f *file) number(path string) (uint64, error) {
	data, err := f.read(path)
	if err != nil {
		return 0, err
	}
	return parseNumber(path, bytes.TrimSpace(data))
}

func parseNumber(path string, text []byte) (uint64, error) {
	if string(text) == "max" {
		return None, nil
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %q is not a number: %w", path, text, errdefs.ErrDataLoss)
	}
	return n, nil
}

// optional is number for a file that some kernels do not have: none then.
func (f *file) optional(path string, none uint64) (uint64, error) {
	n, err := f.number(path)
	if errdefs.IsNotFound(err) {
		return none, nil
	}
	return n, err
}

// pairs calls each for every line "key value" of a file. Lines of another form are passed over.
func (f *file) pairs(path string, each func(key string, value uint64)) error {
	data, err := f.read(path)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(string(value), 10, 64); err == nil {
			each(string(key), n)
		}
	}
	return nil
}

// pressure reads a pressure file; nil where the kernel has none, or has it switched off.
func (f *file) pressure(path string) (*Pressure, error) {
	data, err := f.read(path)
	if errdefs.IsNotFound(err) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &Pressure{}
	for line := range bytes.Lines(data) {
		words := bytes.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch string(words[0]) {
		case "some":
			p.Some = parseStall(words[1:])
		case "full":
			p.Full = parseStall(words[1:])
		}
	}
	return p, nil
}

// parseStall reads avg10=0.00 avg60=0.00 avg300=0.00 total=0; the total is in microseconds.
func parseStall(words [][]byte) (s Stall) {
	for _, word := range words {
		key, value, _ := bytes.Cut(word, []byte("="))
		average := func() float64 { v, _ := strconv.ParseFloat(string(value), 64); return v }
		switch string(key) {
		case "avg10":
			s.Avg10 = average()
		case "avg60":
			s.Avg60 = average()
		case "avg300":
			s.Avg300 = average()
		case "total":
			n, _ := strconv.ParseUint(string(value), 10, 64)
			s.Total = n * 1000
		}
	}
	return s
}
