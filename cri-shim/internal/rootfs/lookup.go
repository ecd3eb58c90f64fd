package rootfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/oci"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/bundle"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// volumes looks the sources of mounts up on the host.
func (m *Maker) volumes(s pod.Sandbox, c pod.Container, images map[string]pod.Image, label string) ([]bundle.Volume, error) {
	out := make([]bundle.Volume, 0, len(c.Config.Mounts))
	for i, v := range c.Config.Mounts {
		if v.Image != "" {
			volume, err := m.imageVolume(s, c.ID, i, v, images[v.Image], label)
			if err != nil {
				return nil, fmt.Errorf("mount at %.200q: image %.200q: %w: %w", v.ContainerPath, v.Image, pod.ErrImageVolume, err)
			}
			out = append(out, volume)
			continue
		}
		source, err := filepath.EvalSymlinks(v.HostPath)
		if errors.Is(err, fs.ErrNotExist) && m.opt.MakeMissingSources {
			if err = os.MkdirAll(v.HostPath, 0o755); err == nil {
				source = v.HostPath
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("mount at %.200q: host_path %.200q does not exist: %w", v.ContainerPath, v.HostPath, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return nil, fmt.Errorf("mount at %.200q: host_path: %w", v.ContainerPath, err)
		}
		if err := checkPropagation(v, source); err != nil {
			return nil, err
		}
		if v.SELinuxRelabel {
			if err := m.relabel(source, label); err != nil {
				return nil, fmt.Errorf("mount at %.200q: selinux_relabel: %w", v.ContainerPath, err)
			}
		}
		out = append(out, bundle.Volume{Mount: v, Source: source})
	}
	return out, nil
}

// checkPropagation: what a container is to see of the host's mounts, the source's own mount must pass on.
func checkPropagation(v pod.Mount, source string) error {
	if v.Propagation != pod.PropagationShared && v.Propagation != pod.PropagationSlave {
		return nil
	}
	parents, err := mountinfo.GetMounts(mountinfo.ParentsFilter(source))
	if err != nil || len(parents) == 0 {
		return fmt.Errorf("find the mount of %s: %w", source, err)
	}
	of := slices.MaxFunc(parents, func(a, b *mountinfo.Info) int { return len(a.Mountpoint) - len(b.Mountpoint) })
	shared := strings.Contains(of.Optional, "shared:")
	slave := strings.Contains(of.Optional, "master:")
	if shared || (slave && v.Propagation == pod.PropagationSlave) {
		return nil
	}
	return fmt.Errorf("mount at %.200q: propagation %s needs host_path %.200q on a shared mount, %s is not: %w",
		v.ContainerPath, v.Propagation, v.HostPath, of.Mountpoint, errdefs.ErrInvalidArgument)
}

func (m *Maker) volumeDir(sandbox, id pod.ID) string {
	return filepath.Join(m.opt.Layout.Container(string(sandbox), string(id)), "volumes")
}

// anonymous makes a directory for each VOLUME of the image that the request does not cover, with the content
// that the image has there.
func (m *Maker) anonymous(r *root, s pod.Sandbox, c pod.Container, img pod.Image, label string) ([]bundle.Volume, error) {
	var out []bundle.Volume
	var asked []string
	for _, v := range c.Config.Mounts {
		asked = append(asked, filepath.Clean(v.ContainerPath))
	}
	var declared []string
	for path := range img.Config.Volumes {
		declared = append(declared, filepath.Clean("/"+path))
	}
	slices.Sort(declared)
	for i, path := range slices.Compact(declared) {
		if slices.Contains(asked, path) {
			continue
		}
		if path == "/" || path == "/proc" || path == "/sys" || path == "/dev" {
			return nil, fmt.Errorf("the image's VOLUME %q: cannot be a volume: %w", path, errdefs.ErrInvalidArgument)
		}
		dir := filepath.Join(m.volumeDir(s.ID, c.ID), strconv.Itoa(i))
		uid, gid := s.Root()
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chown(dir, uid, gid), r.copyOut(path, dir), m.relabel(dir, label)); err != nil {
			return nil, fmt.Errorf("the image's VOLUME %q: %w", path, err)
		}
		out = append(out, bundle.Volume{Mount: pod.Mount{ContainerPath: path}, Source: dir})
	}
	return out, nil
}

// copyOut copies a directory of the image. It is opened inside the root, so that a link cannot make it a copy
// of the host's (CVE-2022-23648); the copy itself does not follow links.
func (r *root) copyOut(path, dir string) error {
	f, err := r.open(path, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return continuity.CopyDir(dir, "/proc/self/fd/"+strconv.Itoa(int(f.Fd()))+"/.")
}

// devices returns the device nodes and the cgroup rules that allow them.
func devices(c pod.ContainerConfig, h bundle.Handler) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	var nodes []specs.LinuxDevice
	var rules []specs.LinuxDeviceCgroup
	for _, d := range c.Devices {
		found, err := deviceNodes(d)
		if err != nil {
			return nil, nil, fmt.Errorf("device %.200q: %w: %w", d.HostPath, err, errdefs.ErrInvalidArgument)
		}
		for _, n := range found {
			nodes = append(nodes, n)
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: n.Type, Major: &n.Major, Minor: &n.Minor, Access: d.Permissions})
		}
	}
	if !c.Privileged || h.NoHostDevices {
		return nodes, rules, nil
	}
	all, err := oci.HostDevices()
	if err != nil {
		return nil, nil, fmt.Errorf("list the host's devices: %w", err)
	}
	// Where the request has a device of its own, that one is meant.
	all = slices.DeleteFunc(all, func(d specs.LinuxDevice) bool {
		return slices.ContainsFunc(nodes, func(n specs.LinuxDevice) bool { return n.Path == d.Path })
	})
	return append(all, nodes...), rules, nil
}

// deviceNodes returns the node at the path, or all nodes in the directory at the path.
func deviceNodes(d pod.Device) ([]specs.LinuxDevice, error) {
	source, err := filepath.EvalSymlinks(d.HostPath)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		node, err := oci.DeviceFromPath(source)
		if err != nil {
			return nil, err
		}
		node.Path = d.ContainerPath
		return []specs.LinuxDevice{*node}, nil
	}
	var out []specs.LinuxDevice
	err = filepath.WalkDir(source, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Type()&fs.ModeDevice == 0 {
			return err
		}
		node, err := oci.DeviceFromPath(path)
		if err == nil {
			node.Path = filepath.Join(d.ContainerPath, strings.TrimPrefix(path, source))
			out = append(out, *node)
		}
		return err
	})
	if err == nil && len(out) == 0 {
		err = errors.New("holds no device")
	}
	return out, err
}

// readSeccomp reads a localhost profile: OCI's own form (config-linux.md, seccomp).
func readSeccomp(path string) (*specs.LinuxSeccomp, error) {
	bad := func(err error) (*specs.LinuxSeccomp, error) {
		return nil, fmt.Errorf("seccomp profile %.200q: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(path) {
		return bad(errors.New("must be an absolute path"))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return bad(err)
	}
	var p specs.LinuxSeccomp
	if err := json.Unmarshal(data, &p); err != nil {
		return bad(err)
	}
	if p.DefaultAction == "" {
		return bad(errors.New("defaultAction is missing"))
	}
	return &p, nil
}
