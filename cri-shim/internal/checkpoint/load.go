package checkpoint

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// maxMetadata bounds what is read into memory of a file that somebody else wrote.
const maxMetadata = 16 << 20

var archiveID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Check implements pod.Checkpoints.
func (c *Checkpoints) Check(dir string, cfg pod.SandboxConfig, containers []pod.ContainerConfig) error {
	options, err := readOptions(dir)
	if err != nil {
		return err
	}
	var was podDump
	if err := readJSON(filepath.Join(dir, metadata.PodDumpFile), &was); err != nil {
		return err
	}
	var names []string
	for _, ctr := range containers {
		names = append(names, ctr.Name)
	}
	slices.Sort(names)
	if have := slices.Sorted(maps.Keys(options.Containers)); !slices.Equal(have, names) {
		return fmt.Errorf("container_configs name %q: want exactly the containers of the checkpoint, %q: %w", names, have, errdefs.ErrInvalidArgument)
	}
	if now := filepath.Base(c.opt.Runtimes[cfg.Handler].Path); now != was.Runtime {
		return fmt.Errorf("runtime_handler %q is %s: the checkpoint was made by %.100q: %w", cfg.Handler, now, was.Runtime, errdefs.ErrInvalidArgument)
	}
	if !same(was.Namespaces, cfg.Namespaces) {
		return fmt.Errorf("config: the sandbox's namespaces are not those of the checkpoint: %w", errdefs.ErrInvalidArgument)
	}
	for _, ctr := range containers {
		if d := was.Containers[ctr.Name]; d.Stdin != ctr.Stdin || d.StdinOnce != ctr.StdinOnce {
			return fmt.Errorf("container %q: stdin and stdin_once are not those of the checkpoint: %w", ctr.Name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func readOptions(dir string) (metadata.CheckpointedPodOptions, error) {
	var o metadata.CheckpointedPodOptions
	if err := readJSON(filepath.Join(dir, metadata.PodOptionsFile), &o); err != nil {
		return o, err
	}
	if o.Version != formatVersion {
		return o, fmt.Errorf("checkpoint_path %q: version %d: want %d: %w", dir, o.Version, formatVersion, errdefs.ErrInvalidArgument)
	}
	for name, id := range o.Containers {
		if !archiveID.MatchString(id) {
			return o, fmt.Errorf("checkpoint_path %q: container %.100q is in archive %.100q: want an id: %w", dir, name, id, errdefs.ErrInvalidArgument)
		}
	}
	return o, nil
}

// open opens a regular file, and nothing that its name was made to point to.
func open(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%w: no checkpoint that is complete: %w", err, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: %w", file, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func readJSON(file string, v any) error {
	f, err := open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return decode(file, f, v)
}

func decode(name string, r io.Reader, v any) error {
	data, err := io.ReadAll(io.LimitReader(r, maxMetadata))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// UnpackSandbox implements pod.Checkpoints.
func (c *Checkpoints) UnpackSandbox(ctx context.Context, dir string, s pod.Sandbox) error {
	if s.HostIPC() {
		return nil
	}
	f, err := open(filepath.Join(dir, metadata.DevShmCheckpointTar))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := archive.Apply(ctx, filepath.Join(c.opt.Layout.Shared(string(s.ID)), "shm"), f); err != nil {
		return fmt.Errorf("restore /dev/shm: %w", err)
	}
	return nil
}

// Unpack implements pod.Checkpoints.
func (c *Checkpoints) Unpack(ctx context.Context, dir string, ctr pod.Container) error {
	options, err := readOptions(dir)
	if err != nil {
		return err
	}
	f, err := open(filepath.Join(dir, options.Containers[ctr.Config.Name]+".tar"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.unpack(ctx, f, ctr); err != nil {
		return fmt.Errorf("restore container %q: %w", ctr.Config.Name, err)
	}
	return nil
}

// unpack takes the members that it knows, each once, and refuses what does not fit the container as it was requested.
func (c *Checkpoints) unpack(ctx context.Context, f io.Reader, ctr pod.Container) error {
	to := images(c.opt.Layout.Restore(string(ctr.SandboxID), string(ctr.ID)))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	seen := map[string]bool{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		name := path.Clean(h.Name)
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg || seen[name] {
			return fmt.Errorf("archive member %.200q: want regular files, each once: %w", h.Name, errdefs.ErrInvalidArgument)
		}
		seen[name] = true
		if err := c.member(ctx, name, r, to, ctr); err != nil {
			return err
		}
	}
	for _, name := range []string{metadata.ConfigDumpFile, metadata.SpecDumpFile, metadata.RootFsDiffTar} {
		if !seen[name] {
			return fmt.Errorf("archive has no %s: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func (c *Checkpoints) member(ctx context.Context, name string, r io.Reader, to string, ctr pod.Container) error {
	switch name {
	case metadata.ConfigDumpFile:
		var was metadata.ContainerConfig
		if err := decode(name, r, &was); err != nil {
			return err
		}
		if was.RootfsImageRef != ctr.ImageID {
			return fmt.Errorf("image %s: the checkpoint is of image %.100q: %w", ctr.ImageID, was.RootfsImageRef, errdefs.ErrInvalidArgument)
		}
	case metadata.SpecDumpFile:
		var was specs.Spec
		if err := decode(name, r, &was); err != nil {
			return err
		}
		now, err := readSpec(filepath.Join(c.opt.Layout.Bundle(string(ctr.ID)), "config.json"))
		if err != nil {
			return err
		}
		return fits(&was, now)
	case metadata.RootFsDiffTar:
		if _, err := archive.Apply(ctx, c.opt.Layout.Rootfs(string(ctr.ID)), r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if path.Dir(name) != metadata.CheckpointDirectory {
		return nil // logs and the like are not needed
	}
	f, err := os.OpenFile(filepath.Join(to, path.Base(name)), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, readerOf(ctx, r))
	return errors.Join(err, f.Close())
}

// readerOf ends with ctx.
func readerOf(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
