package bundle

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// mounts returns all mounts, outer ones first, and the propagation that the root needs for them. A mount of the
// request takes the place of a default one.
func mounts(in Input) ([]specs.Mount, string, error) {
	taken := map[string]bool{}
	var asked []specs.Mount
	propagation := ""
	for _, v := range append(slices.Clone(in.Volumes), in.Anonymous...) {
		m, err := volume(v, in)
		if err != nil {
			return nil, "", err
		}
		taken[filepath.Clean(v.ContainerPath)] = true
		asked = append(asked, m)
		switch v.Propagation {
		case pod.PropagationShared:
			propagation = "rshared"
		case pod.PropagationSlave:
			if propagation == "" {
				propagation = "rslave"
			}
		}
	}
	slices.SortStableFunc(asked, func(a, b specs.Mount) int {
		return strings.Count(filepath.Clean(a.Destination), "/") - strings.Count(filepath.Clean(b.Destination), "/")
	})
	all := slices.DeleteFunc(defaultMounts(in), func(m specs.Mount) bool { return taken[m.Destination] })
	return append(all, asked...), propagation, nil
}

func volume(v Volume, in Input) (specs.Mount, error) {
	bad := func(fault string) (specs.Mount, error) {
		return specs.Mount{}, fmt.Errorf("mount at %.200q: %s: %w", v.ContainerPath, fault, errdefs.ErrInvalidArgument)
	}
	dest := filepath.Clean(v.ContainerPath)
	if !filepath.IsAbs(v.ContainerPath) || dest == "/" {
		return bad("container_path must be absolute and not the root")
	}
	options := []string{"rbind", "r" + string(pod.PropagationPrivate)}
	if v.Propagation != "" {
		options[1] = "r" + string(v.Propagation)
	}
	switch {
	case v.RecursiveReadonly && !v.Readonly:
		return bad("recursive_read_only needs readonly")
	case v.RecursiveReadonly && v.Propagation != "" && v.Propagation != pod.PropagationPrivate:
		return bad("recursive_read_only needs private propagation")
	case v.RecursiveReadonly && !in.Facts.KernelAtLeast(5, 12):
		return bad("recursive_read_only needs Linux 5.12")
	case v.RecursiveReadonly:
		options = append(options, "rro")
	case v.Readonly:
		options = append(options, "ro")
	default:
		options = append(options, "rw")
	}
	return specs.Mount{
		Destination: dest, Type: "bind", Source: v.Source, Options: append(options, v.Options...),
		UIDMappings: mappings(v.UIDs), GIDMappings: mappings(v.GIDs),
	}, nil
}

func mappings(ms []pod.IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range ms {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Length})
	}
	return out
}

func defaultMounts(in Input) []specs.Mount {
	c := in.Container.Config
	access := "ro"
	if c.Privileged {
		access = "rw"
	}
	cgroups := access
	if in.Handler.WritableCgroup && in.Facts.CgroupV2 { // its own are all that it sees; with v1 it could take over the host
		cgroups = "rw"
	}
	shared := in.Layout.Shared(string(in.Sandbox.ID))
	file := "rw"
	if c.Security.ReadonlyRootfs {
		file = "ro"
	}
	shm := filepath.Join(shared, "shm")
	if in.Sandbox.HostIPC() {
		shm = "/dev/shm"
	}
	sys := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}}
	if in.Sandbox.Config.Namespaces.User != nil && in.Sandbox.HostNetwork() {
		// sysfs shows a network namespace, and is mounted only by whoever rules that one (sysfs_init_fs_context).
		sys = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"}}
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		sys,
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", cgroups}},
		{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "rw"}},
	}
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		out = append(out, specs.Mount{
			Destination: "/etc/" + name, Type: "bind", Source: filepath.Join(shared, name), Options: []string{"rbind", "rprivate", file},
		})
	}
	return out
}

// namespaces lists what the container has of its own or of its pod; what is not listed is the host's.
func namespaces(in Input) []specs.LinuxNamespace {
	dir := in.Layout.Namespaces(string(in.Sandbox.ID))
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if !in.Sandbox.HostNetwork() {
		out = append(out,
			specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: filepath.Join(dir, "net")},
			specs.LinuxNamespace{Type: specs.UTSNamespace, Path: filepath.Join(dir, "uts")})
	}
	if !in.Sandbox.HostIPC() {
		out = append(out, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: filepath.Join(dir, "ipc")})
	}
	if in.Sandbox.Config.Namespaces.User != nil {
		// Its mappings are those of the file; a runtime that was given both would have to compare them.
		out = append(out, specs.LinuxNamespace{Type: specs.UserNamespace, Path: filepath.Join(dir, "user")})
	}
	switch in.Container.Config.Namespaces.PID {
	case pod.ModeContainer:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case pod.ModePod:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: filepath.Join(dir, "pid")})
	case pod.ModeTarget:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: fmt.Sprintf("/proc/%d/ns/pid", in.Container.TargetPID)})
	}
	if in.Facts.CgroupV2 && !in.Container.Config.Privileged {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out
}
