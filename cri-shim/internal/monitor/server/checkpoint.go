package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/runc"
)

// dumpLimit bounds one dump. It is not cut off earlier: a process whose tracer dies half-way goes on in the
// tracer's code.
const dumpLimit = 10 * time.Minute

// freezeLimit bounds the freezing: a process that waits for a lost disk cannot be frozen.
const freezeLimit = 30 * time.Second

// Freeze implements the protocol.
func (s *Server) Freeze(ctx context.Context, stream api.Monitor_FreezeServer) (err error) {
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	var frozen []*container
	defer func() { err = toWire(errors.Join(err, s.thaw(ctx, frozen))) }() // no interceptor sees streams
	// In one order: two that ask for the same containers do not wait for each other.
	slices.Sort(r.Ids)
	for _, id := range slices.Compact(r.Ids) {
		c, rt, err := s.find(ctx, id)
		if err != nil {
			return err
		}
		if err := c.reserve(ctx); err != nil {
			return err
		}
		frozen = append(frozen, c) // also one that was frozen in part only
		if err := c.freeze(ctx, rt); err != nil {
			return err
		}
	}
	if err := stream.Send(&api.Empty{}); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// thaw lets containers go on, together, whether their freezer is still there or not.
func (s *Server) thaw(ctx context.Context, frozen []*container) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	faults := make([]error, len(frozen))
	var wg sync.WaitGroup
	for i, c := range frozen {
		wg.Go(func() {
			rt, err := s.runtimeOf(c.rec)
			if err == nil {
				err = c.thaw(ctx, rt)
			}
			faults[i] = err
			<-c.icebox
		})
	}
	wg.Wait()
	return errors.Join(faults...)
}

// frozenMark is in the bundle of a container that is frozen, or about to be: the next monitor thaws it.
func (c *container) frozenMark() string { return filepath.Join(c.rec.Bundle, "frozen") }

// reserve makes the container the caller's to freeze. Who was before, also a cri-shim that was killed meanwhile, has
// thawed it by then: its thaw would undo a freeze of ours, and take our mark away.
func (c *container) reserve(ctx context.Context) error {
	select {
	case c.icebox <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("freeze container %s: another request has frozen it: %w", c.rec.ID, ctx.Err())
	}
}

func (c *container) freeze(ctx context.Context, rt runc.Runtime) error {
	if err := c.alive(); err != nil {
		return err
	}
	if err := os.WriteFile(c.frozenMark(), nil, 0o600); err != nil {
		return fmt.Errorf("freeze container %s: %w", c.rec.ID, err)
	}
	// Crash from here on: the next monitor finds the mark.
	return rt.Pause(ctx, c.rec.ID)
}

// thaw undoes freeze, also half of it; one that has ended needs none.
func (c *container) thaw(ctx context.Context, rt runc.Runtime) error {
	if _, err := os.Lstat(c.frozenMark()); err != nil {
		return nil //nolint:nilerr // never frozen
	}
	err := rt.Resume(ctx, c.rec.ID)
	if err != nil && c.alive() == nil && !strings.Contains(err.Error(), "not paused") {
		return fmt.Errorf("thaw container %s: %w", c.rec.ID, err)
	}
	if err := os.Remove(c.frozenMark()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("thaw container %s: %w", c.rec.ID, err)
	}
	return nil
}

// Dump implements the protocol.
func (s *Server) Dump(ctx context.Context, r *api.DumpRequest) (*api.Empty, error) {
	c, rt, err := s.find(ctx, r.Id)
	if err != nil {
		return nil, err
	}
	if !filepath.IsAbs(r.Images) || !filepath.IsAbs(r.Work) {
		return nil, fmt.Errorf("images %.200q, work %.200q: must be absolute paths: %w", r.Images, r.Work, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dumpLimit)
	defer cancel()
	return &api.Empty{}, c.dump(ctx, rt, runc.CRIU{Config: filepath.Join(r.Work, "criu.conf"), Images: r.Images, Work: r.Work})
}

// streamsFile is beside CRIU's own images: by which name each stream of the container is known in them.
const streamsFile = "podwright-streams.json"

// dump names the FIFOs, which are on no mount of the container, to CRIU as files that will be handed in again.
func (c *container) dump(ctx context.Context, rt runc.Runtime, criu runc.CRIU) error {
	if err := c.alive(); err != nil {
		return err
	}
	names := map[string]string{}
	// A connection cannot be moved to a pod with another address: the copy finds it closed, the original keeps it.
	conf := "tcp-close\n"
	for _, stream := range c.rec.streams() {
		name, err := externalName(fifo(c.rec.Bundle, stream))
		if err != nil {
			return fmt.Errorf("dump container %s: %w", c.rec.ID, err)
		}
		names[stream] = name
		conf += "external " + name + "\n"
	}
	if err := os.WriteFile(criu.Config, []byte(conf), 0o600); err != nil {
		return fmt.Errorf("dump container %s: %w", c.rec.ID, err)
	}
	if err := rt.Checkpoint(ctx, c.rec.ID, criu); err != nil {
		return err
	}
	return write(filepath.Join(criu.Images, streamsFile), names)
}

// streams are the standard streams that are FIFOs.
func (r record) streams() []string {
	switch {
	case r.TTY:
		return nil
	case r.Stdin:
		return []string{"stdin", string(crilog.Stdout), string(crilog.Stderr)}
	}
	return []string{string(crilog.Stdout), string(crilog.Stderr)}
}

// externalName is how CRIU names a file that is on no mount of the container (criu(8), --external).
func externalName(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	info, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return "", err
	}
	defer info.Close()
	for lines := bufio.NewScanner(info); lines.Scan(); {
		var mount int
		if n, _ := fmt.Sscanf(lines.Text(), "mnt_id: %d", &mount); n == 1 {
			return fmt.Sprintf("file[%x:%x]", mount, st.Ino), nil
		}
	}
	return "", fmt.Errorf("%s: its descriptor names no mount", path)
}

var goodName = regexp.MustCompile(`^file\[[0-9a-f]{1,16}:[0-9a-f]{1,16}\]$`)

// restoreConfig says which of the runtime's descriptors are the streams in the images, and where the cgroup is now.
func (c *container) restoreConfig() (string, error) {
	data, err := os.ReadFile(filepath.Join(c.rec.Restore, streamsFile))
	if err != nil {
		return "", err
	}
	var names map[string]string
	if err := json.Unmarshal(data, &names); err != nil {
		return "", fmt.Errorf("%s: %w: %w", streamsFile, err, errdefs.ErrInvalidArgument)
	}
	conf := "tcp-close\n"
	for _, stream := range c.rec.streams() {
		name := names[stream]
		if !goodName.MatchString(name) {
			return "", fmt.Errorf("%s: %s is %.100q: must match %s: %w", streamsFile, stream, name, goodName, errdefs.ErrInvalidArgument)
		}
		conf += fmt.Sprintf("inherit-fd fd[%d]:%s\n", map[string]int{"stdin": 0, "stdout": 1, "stderr": 2}[stream], name)
	}
	cg, err := c.s.cgroups.cgroupOf(c.rec.Bundle)
	if err != nil {
		return "", err
	}
	if cg.h.Unified != "" {
		// The runtime names the cgroup to CRIU by controller, and cgroup v2 has none: it would be the old container's.
		conf += "cgroup-root " + cg.path + "\n"
	}
	return conf, nil
}

// restore is run for a container whose processes go on.
func (c *container) restore(ctx context.Context, rt runc.Runtime, io runc.IO) (int, error) {
	conf, err := c.restoreConfig()
	if err != nil {
		return 0, fmt.Errorf("restore container %s: %w", c.rec.ID, err)
	}
	criu := runc.CRIU{Config: filepath.Join(c.rec.Bundle, "criu.conf"), Images: c.rec.Restore, Work: c.rec.Bundle}
	if err := os.WriteFile(criu.Config, []byte(conf), 0o600); err != nil {
		return 0, fmt.Errorf("restore container %s: %w", c.rec.ID, err)
	}
	return rt.Restore(ctx, c.rec.ID, c.rec.Bundle, criu, io)
}

// bring starts or restores the container's first process.
func (c *container) bring(ctx context.Context, rt runc.Runtime, io runc.IO) (int, error) {
	if c.rec.Restore != "" {
		return c.restore(ctx, rt, io)
	}
	return rt.Run(ctx, c.rec.ID, c.rec.Bundle, io)
}
