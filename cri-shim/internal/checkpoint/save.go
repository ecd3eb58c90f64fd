package checkpoint

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// SaveContainer implements pod.Checkpoints.
func (c *Checkpoints) SaveContainer(ctx context.Context, s pod.Sandbox, ctr pod.Container, location string) error {
	out, err := create(location)
	if err != nil {
		return err
	}
	defer out.close()
	if err := c.save(ctx, s, []pod.Container{ctr}, []*file{out}, nil); err != nil {
		return err
	}
	return out.publish()
}

// SavePod implements pod.Checkpoints. The list of the archives gets its name last: without it nothing is restored.
func (c *Checkpoints) SavePod(ctx context.Context, s pod.Sandbox, containers []pod.Container, dir string) (err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("output_path: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(entries) > 0 {
		return fmt.Errorf("output_path %q holds %q: want an empty directory: %w", dir, entries[0].Name(), errdefs.ErrInvalidArgument)
	}
	var files []*file
	defer func() {
		for _, f := range files {
			f.close()
			if err != nil {
				err = errors.Join(err, f.unpublish())
			}
		}
	}()
	add := func(name string) (*file, error) {
		f, err := create(filepath.Join(dir, name))
		if err == nil {
			files = append(files, f)
		}
		return f, err
	}
	for _, ctr := range containers {
		if _, err := add(string(ctr.ID) + ".tar"); err != nil {
			return err
		}
	}
	archives := files
	shm, err := add(metadata.DevShmCheckpointTar)
	if err != nil {
		return err
	}
	for name, v := range map[string]any{metadata.PodDumpFile: c.podDump(s, containers), metadata.PodOptionsFile: podOptions(containers)} {
		f, err := add(name)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(f).Encode(v); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := c.save(ctx, s, containers, archives, shm); err != nil {
		return err
	}
	for _, f := range files {
		if filepath.Base(f.path) == metadata.PodOptionsFile {
			continue
		}
		if err := f.publish(); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := f.publish(); err != nil {
			return err
		}
	}
	return nil
}

// podDump is what a checkpoint says of its sandbox.
type podDump struct {
	Runtime    string                   `json:"runtime"` // base name of the OCI runtime
	Namespaces pod.Namespaces           `json:"namespaces"`
	Containers map[string]containerDump `json:"containers"` // by name
}

type containerDump struct {
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`
}

func (c *Checkpoints) podDump(s pod.Sandbox, containers []pod.Container) podDump {
	d := podDump{Runtime: filepath.Base(c.opt.Runtimes[s.Config.Handler].Path), Namespaces: s.Config.Namespaces, Containers: map[string]containerDump{}}
	for _, ctr := range containers {
		d.Containers[ctr.Config.Name] = containerDump{ctr.Config.Stdin, ctr.Config.StdinOnce}
	}
	return d
}

func podOptions(containers []pod.Container) metadata.CheckpointedPodOptions {
	o := metadata.CheckpointedPodOptions{Version: formatVersion, Containers: map[string]string{}}
	for _, ctr := range containers {
		o.Containers[ctr.Config.Name] = string(ctr.ID)
	}
	return o
}

// formatVersion is that of the directory of a pod.
const formatVersion = 1

// save freezes all containers, writes them, and lets them go on before it returns, whatever happens.
func (c *Checkpoints) save(ctx context.Context, s pod.Sandbox, containers []pod.Container, outs []*file, shm io.Writer) (err error) {
	var ids []pod.ID
	for _, ctr := range containers {
		ids = append(ids, ctr.ID)
		dir := c.opt.Layout.Dump(string(s.ID), string(ctr.ID))
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), os.Mkdir(images(dir), 0o700)); err != nil {
			return fmt.Errorf("checkpoint container %s: %w", ctr.ID, err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	thaw, err := c.opt.Freezer.Freeze(ctx, ids)
	if err != nil {
		return err
	}
	defer func() {
		if fault := thaw(); err == nil {
			err = fault
		}
	}()
	for _, ctr := range containers {
		if err := c.dump(ctx, s, ctr); err != nil {
			return fmt.Errorf("checkpoint container %s: %w", ctr.ID, err)
		}
	}
	if shm != nil && !s.HostIPC() {
		if err := archive.WriteDiff(ctx, shm, "", filepath.Join(c.opt.Layout.Shared(string(s.ID)), "shm")); err != nil {
			return fmt.Errorf("checkpoint /dev/shm: %w", err)
		}
	}
	// What was written does not change any more: the containers need not wait for the archives.
	if err := thaw(); err != nil {
		return err
	}
	for i, ctr := range containers {
		if err := c.pack(ctx, s, ctr, outs[i]); err != nil {
			return fmt.Errorf("checkpoint container %s: %w", ctr.ID, err)
		}
	}
	return nil
}

// dump writes a frozen container into its dump directory.
func (c *Checkpoints) dump(ctx context.Context, s pod.Sandbox, ctr pod.Container) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := c.opt.Layout.Dump(string(s.ID), string(ctr.ID))
	if err := c.opt.Freezer.Dump(ctx, ctr.ID, images(dir), dir); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, metadata.RootFsDiffTar), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = writeLayer(ctx, f, c.opt.Layout.Upper(string(s.ID), string(ctr.ID)))
	return errors.Join(err, f.Close())
}

// pack writes the archive of a container from its dump directory.
func (c *Checkpoints) pack(ctx context.Context, s pod.Sandbox, ctr pod.Container, out io.Writer) error {
	dir := c.opt.Layout.Dump(string(s.ID), string(ctr.ID))
	spec, err := readSpec(filepath.Join(c.opt.Layout.Bundle(string(ctr.ID)), "config.json"))
	if err != nil {
		return err
	}
	spec.Annotations = annotations(s, ctr)
	for name, v := range map[string]any{
		metadata.SpecDumpFile: spec,
		metadata.ConfigDumpFile: metadata.ContainerConfig{
			ID: string(ctr.ID), Name: ctr.Config.Name,
			RootfsImage: ctr.Config.Image, RootfsImageRef: ctr.ImageID, RootfsImageName: ctr.Config.UserSpecifiedImage,
			OCIRuntime:  filepath.Base(c.opt.Runtimes[s.Config.Handler].Path),
			CreatedTime: ctr.CreatedAt, CheckpointedAt: time.Now(),
		},
		metadata.StatusFile: metadata.ContainerdStatus{
			CreatedAt: ctr.CreatedAt.UnixNano(), StartedAt: ctr.StartedAt.UnixNano(), Pid: uint32(ctr.PID),
		},
	} {
		if _, err := metadata.WriteJSONFile(v, dir, name); err != nil {
			return err
		}
	}
	w := tar.NewWriter(out)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil || path == dir || d.Name() == "criu.conf" {
			return err
		}
		return addFile(w, dir, path, d)
	})
	return errors.Join(err, w.Close())
}

// addFile adds a file or a directory of a dump; there is nothing else in one.
func addFile(w *tar.Writer, dir, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	h, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return err
	}
	if h.Name, err = filepath.Rel(dir, path); err != nil {
		return err
	}
	h.Uname, h.Gname, h.Format = "", "", tar.FormatPAX
	if err := w.WriteHeader(h); err != nil || d.IsDir() {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// annotations are by which checkpointctl shows whose checkpoint it is; containerd's names.
func annotations(s pod.Sandbox, ctr pod.Container) map[string]string {
	return map[string]string{
		"io.kubernetes.cri.container-type":    "container",
		"io.kubernetes.cri.container-name":    ctr.Config.Name,
		"io.kubernetes.cri.image-name":        ctr.Config.Image,
		"io.kubernetes.cri.sandbox-id":        string(s.ID),
		"io.kubernetes.cri.sandbox-name":      s.Config.Name,
		"io.kubernetes.cri.sandbox-namespace": s.Config.Namespace,
		"io.kubernetes.cri.sandbox-uid":       s.Config.UID,
	}
}

func readSpec(path string) (*specs.Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &spec, nil
}
