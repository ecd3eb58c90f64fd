package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/proc"
	"github.com/podwright/podwright/cri-shim/internal/runc"
	"github.com/podwright/podwright/pkg/durable"
)

// Config is what a monitor is told at its start.
type Config struct {
	Layout        paths.Layout
	Runtimes      map[string]string // handler → OCI runtime binary; "" is the default one
	SystemdCgroup bool
	IdleExit      time.Duration // ends the monitor when it had no container and no client for so long; 0: never
	Wait          bool          // stand by while another monitor serves, instead of failing
	Version       string
	Logger        *slog.Logger
}

// Server is the monitor of one node.
type Server struct {
	cfg     Config
	log     *slog.Logger
	files   archive
	oom     *oomWatch // nil on cgroup v1
	reaper  *proc.Reaper
	cgroups hierarchies
	work    sync.WaitGroup // the goroutines that wait for containers and commands
	serial  atomic.Uint64  // of terminals
	backlog *allowance     // what may wait for those who are attached

	mu         sync.Mutex
	containers map[string]*container  // guarded by mu
	watchers   map[chan struct{}]bool // guarded by mu; one slot each: there is an end to tell
	clients    int                    // guarded by mu
	idleSince  time.Time              // guarded by mu
}

// Run serves until ctx ends, or until it was idle for long enough. Containers run on.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Runtimes[""] == "" {
		return fmt.Errorf("runtimes: the default one (handler \"\") is missing: %w", errdefs.ErrInvalidArgument)
	}
	files, err := newArchive(cfg.Layout.Monitor())
	if err != nil {
		return err
	}
	lock, err := acquire(ctx, cfg.Layout.MonitorLock(), cfg.Wait)
	if err != nil || lock == nil {
		return err
	}
	defer lock.Release()
	if err := files.sweep(); err != nil {
		return err
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, files: files, containers: map[string]*container{},
		watchers: map[chan struct{}]bool{}, idleSince: time.Now(), backlog: newAllowance(monitorBacklog),
	}
	if s.cgroups, err = findHierarchies(); err != nil {
		return err
	}
	if s.oom, err = newOOMWatch(s.cgroups); err != nil {
		return err
	}
	defer s.oom.close()
	if s.reaper, err = proc.NewReaper(); err != nil {
		return err
	}
	defer s.reaper.Close()
	if err := os.WriteFile(files.sub("pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	s.adopt(ctx)
	return s.serve(ctx)
}

// standbyPace is how often a monitor that stands by looks whether the other one has ended.
const standbyPace = time.Second

// acquire makes this process the only monitor. It returns no lock when ctx ends while it stands by.
func acquire(ctx context.Context, path string, wait bool) (*durable.Lock, error) {
	for {
		lock, err := durable.TryAcquire(path)
		if !wait || !errors.Is(err, durable.ErrLocked) {
			return lock, err
		}
		select {
		case <-time.After(standbyPace):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// adopt takes over all containers of the monitor before.
func (s *Server) adopt(ctx context.Context) {
	records, bad := s.files.load()
	for _, err := range bad {
		s.log.Error("a record was set aside", "err", err)
	}
	var wg sync.WaitGroup
	for _, r := range records {
		c := newContainer(s, r)
		s.containers[r.ID] = c
		wg.Go(func() {
			rt, err := s.runtimeOf(r)
			if err := errors.Join(err, c.adopt(ctx, rt)); err != nil {
				s.log.Error("adopt container", "container", r.ID, "err", err)
			}
		})
	}
	wg.Wait()
}

func (s *Server) serve(ctx context.Context) error {
	l, err := s.listen(s.cfg.Layout.MonitorSocket())
	if err != nil {
		return err
	}
	srv, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.intercept))
	if err != nil {
		return err
	}
	api.RegisterMonitorService(srv, s)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ctx, countingListener{l, s}) }()
	defer srv.Close()
	sessions, err := s.openSessions(ctx)
	if err != nil {
		return err
	}
	defer sessions.close()
	s.log.Info("cri-monitor serves", "socket", l.Addr().String(), "containers", len(s.containers))
	for {
		select {
		case err := <-failed:
			return fmt.Errorf("serve: %w", err)
		case <-ctx.Done():
			return nil
		case <-s.idleTick():
			if s.idle() {
				s.log.Info("idle: no container and no client", "for", s.cfg.IdleExit)
				return nil
			}
		}
	}
}

// idleTick says when to look for idleness; a monitor that never ends by itself is not woken for it.
func (s *Server) idleTick() <-chan time.Time {
	if s.cfg.IdleExit == 0 {
		return nil
	}
	return time.After(max(s.cfg.IdleExit/4, time.Second))
}

// listen makes a socket for our own user.
func (s *Server) listen(path string) (*net.UnixListener, error) {
	_ = os.Remove(path) // we hold the lock: whoever made it is dead
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (s *Server) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.containers) > 0 || s.clients > 0 {
		s.idleSince = time.Now()
	}
	return s.cfg.IdleExit > 0 && time.Since(s.idleSince) > s.cfg.IdleExit
}

// countingListener counts the clients, and admits only those of our own user or root.
type countingListener struct {
	*net.UnixListener
	s *Server
}

func (l countingListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
			l.s.count(1)
			return &countedConn{UnixConn: conn, closed: sync.OnceFunc(func() { l.s.count(-1) })}, nil
		}
		l.s.log.Warn("refuse a client", "uid", uid, "err", err)
		_ = conn.Close()
	}
}

func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

type countedConn struct {
	*net.UnixConn
	closed func()
}

// Close closes the connection and counts it off.
func (c *countedConn) Close() error {
	c.closed()
	return c.UnixConn.Close()
}

func (s *Server) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients += n
	s.idleSince = time.Now()
}

func (s *Server) runtime(handler string) (runc.Runtime, error) {
	binary, ok := s.cfg.Runtimes[handler]
	if !ok {
		return runc.Runtime{}, fmt.Errorf("runtime handler %q is not known: %w", handler, errdefs.ErrInvalidArgument)
	}
	return s.runtimeAt(binary), nil
}

func (s *Server) runtimeAt(binary string) runc.Runtime {
	return runc.Runtime{Binary: binary, Root: s.cfg.Layout.RuncRoot(), SystemdCgroup: s.cfg.SystemdCgroup, Reaper: s.reaper}
}

// runtimeOf is the OCI runtime of a container. One whose handler is configured no more has the runtime it was started by.
func (s *Server) runtimeOf(r record) (runc.Runtime, error) {
	rt, err := s.runtime(r.Handler)
	if err != nil && r.Runtime != "" {
		return s.runtimeAt(r.Runtime), nil
	}
	return rt, err
}

// find returns a container whose start has come about.
func (s *Server) find(ctx context.Context, id string) (*container, runc.Runtime, error) {
	s.mu.Lock()
	c := s.containers[id]
	s.mu.Unlock()
	if c == nil {
		return nil, runc.Runtime{}, fmt.Errorf("container %.80q: %w", id, errdefs.ErrNotFound)
	}
	select {
	case <-c.begun:
	case <-ctx.Done():
		return nil, runc.Runtime{}, ctx.Err()
	}
	rt, err := s.runtimeOf(c.rec)
	return c, rt, err
}

// begin returns the container id, and whether the caller is the one to start it.
func (s *Server) begin(r record) (*container, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[r.ID]; c != nil {
		return c, false
	}
	c := newContainer(s, r)
	s.containers[r.ID] = c
	return c, true
}

func (s *Server) drop(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.rec.ID] == c {
		delete(s.containers, c.rec.ID)
	}
}

// tell wakes all who watch, after an end is on disk.
func (s *Server) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w <- struct{}{}:
		default: // it is awake already
		}
	}
}

func validStart(r *api.StartRequest) error {
	switch {
	case !goodID.MatchString(r.Id):
		return fmt.Errorf("id %.80q: must match %s: %w", r.Id, goodID, errdefs.ErrInvalidArgument)
	case r.Restore != "" && !filepath.IsAbs(r.Restore):
		return fmt.Errorf("restore %.200q: must be an absolute path: %w", r.Restore, errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(r.Bundle):
		return fmt.Errorf("bundle %.200q: must be an absolute path: %w", r.Bundle, errdefs.ErrInvalidArgument)
	case r.LogPath != "" && (!filepath.IsAbs(r.LogPath) || filepath.Clean(r.LogPath) != r.LogPath):
		return fmt.Errorf("log_path %.200q: must be absolute and clean: %w", r.LogPath, errdefs.ErrInvalidArgument)
	case r.LogDirectory != "" && (filepath.Clean(r.LogDirectory) != r.LogDirectory || !strings.HasPrefix(r.LogPath, strings.TrimSuffix(r.LogDirectory, "/")+"/")):
		return fmt.Errorf("log_directory %.200q: must be clean, with log_path %.200q below it: %w", r.LogDirectory, r.LogPath, errdefs.ErrInvalidArgument)
	}
	return nil
}
