package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
	"github.com/podwright/podwright/cri-shim/internal/runc"
)

// stdio is the monitor's end of a container's standard streams.
type stdio struct {
	log      *crilog.Log
	sources  []*os.File // what the pumps read
	pumps    sync.WaitGroup
	audience audience

	mu    sync.Mutex
	stdin *os.File // guarded by mu; writer that keeps a stdin_once container from an end of file; nil otherwise
}

// fifo names the FIFO of one stream.
func fifo(bundle, stream string) string { return filepath.Join(bundle, stream) }

// makeFIFOs makes what the container needs and returns its ends. Output FIFOs are opened for reading and
// writing: the container itself keeps them alive, whatever happens to us.
func makeFIFOs(r record) (runc.IO, error) {
	var out runc.IO
	ends := []struct {
		name string
		mode int
		end  **os.File
	}{{"stdout", os.O_RDWR, &out.Stdout}, {"stderr", os.O_RDWR, &out.Stderr}}
	if r.Stdin {
		mode := os.O_RDWR // never an end of file: nobody closes stdin for good
		if r.StdinOnce {
			mode = os.O_RDONLY | unix.O_NONBLOCK
		}
		ends = append(ends, struct {
			name string
			mode int
			end  **os.File
		}{"stdin", mode, &out.Stdin})
	}
	for _, e := range ends {
		path := fifo(r.Bundle, e.name)
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			closeIO(out)
			return runc.IO{}, fmt.Errorf("make FIFO %s: %w", path, err)
		}
		fd, err := openEnd(path, e.mode)
		if err != nil {
			closeIO(out)
			return runc.IO{}, fmt.Errorf("open FIFO %s: %w", path, err)
		}
		if e.mode&unix.O_NONBLOCK != 0 { // needed for the open only; the container reads blocking
			_ = unix.SetNonblock(fd, false)
		}
		*e.end = os.NewFile(uintptr(fd), path)
	}
	return out, nil
}

// openEnd opens a FIFO that a container gets. O_NOFOLLOW would stay among the descriptor's flags, and CRIU opens it
// anew, with the same flags, by a link in /proc.
func openEnd(path string, mode int) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), mode|unix.O_CLOEXEC, 0)
}

func closeIO(io runc.IO) {
	for _, f := range []*os.File{io.Stdin, io.Stdout, io.Stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func removeFIFOs(bundle string) error {
	var faults []error
	for _, name := range []string{"stdout", "stderr", "stdin", "stdout.carry", "stderr.carry"} {
		if err := os.Remove(fifo(bundle, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// follow opens the reading ends and begins to log.
func (s *stdio) follow(r record) error {
	for _, stream := range []crilog.Stream{crilog.Stdout, crilog.Stderr} {
		f, err := os.OpenFile(fifo(r.Bundle, string(stream)), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("follow output: %w", err)
		}
		if err := s.pump(r, stream, f); err != nil {
			return err
		}
	}
	if r.Stdin && r.StdinOnce {
		f, err := os.OpenFile(fifo(r.Bundle, "stdin"), os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("hold stdin: %w", err)
		}
		s.mu.Lock()
		s.stdin = f
		s.mu.Unlock()
	}
	return nil
}

// pump moves one stream into the log until the last writer is gone.
func (s *stdio) pump(r record, stream crilog.Stream, f *os.File) error {
	c, err := openCarry(fifo(r.Bundle, string(stream)+".carry"))
	if err != nil {
		_ = f.Close()
		return err
	}
	source, err := f.SyscallConn()
	if err != nil {
		_ = c.close()
		_ = f.Close()
		return fmt.Errorf("follow %s: %w", stream, err)
	}
	s.sources = append(s.sources, f)
	s.pumps.Go(func() {
		defer c.close()
		defer f.Close()
		c.logged(s.log.Write(stream, c.unlogged(), false)) // of a monitor before us
		for {
			got, err := c.read(source)
			c.logged(s.log.Write(stream, c.unlogged(), err != nil))
			s.audience.tell(stream, got)
			if err != nil {
				return // end of file, EIO of a terminal, or the deadline of finish
			}
		}
	})
	return nil
}

// finish waits until all output is logged. Something outside of the container's cgroup may still hold the
// other end: then what is there is logged and the rest given up.
func (s *stdio) finish() {
	const patience = 5 * time.Second
	done := make(chan struct{})
	go func() { s.pumps.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		for _, f := range s.sources {
			_ = f.SetReadDeadline(time.Now())
		}
		<-done
	}
	s.audience.end()
	s.closeStdin()
	_ = s.log.Close()
}

// console receives the master of a terminal from the OCI runtime.
type console struct {
	l    *net.UnixListener
	path string
}

func listenConsole(path string) (*console, error) {
	_ = os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for a terminal: %w", err)
	}
	return &console{l, path}, nil
}

func (c *console) close() {
	_ = c.l.Close()
	_ = os.Remove(c.path)
}

// receive returns the master; the runtime has sent it before it ended.
func (c *console) receive() (*os.File, error) {
	_ = c.l.SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := c.l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("receive a terminal: %w", err)
	}
	defer conn.Close()
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, fmt.Errorf("receive a terminal: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("receive a terminal: %d control messages: %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive a terminal: %d descriptors: %w", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
