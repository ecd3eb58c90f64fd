// Package cgroupfs knows where this host's cgroups are mounted, and which of them an OCI cgroupsPath means. It
// makes, reads and changes none of them.
//
// Crash story: none; it keeps nothing.
package cgroupfs

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
)

// Mounts are the mounted cgroup trees of this host (cgroups(7)).
type Mounts struct {
	Unified string            // mount point of cgroup v2 with controllers; "" on v1 and hybrid hosts
	V1      map[string]string // controller → mount point
}

// Find reads the mounts of this process.
func Find() (Mounts, error) {
	m := Mounts{V1: map[string]string{}}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return m, fmt.Errorf("find cgroups: %w", err)
	}
	for _, mount := range mounts {
		if mount.FSType == "cgroup2" {
			if mount.Mountpoint == "/sys/fs/cgroup" {
				m.Unified = mount.Mountpoint
			}
			continue
		}
		for _, opt := range strings.Split(mount.VFSOptions, ",") {
			if m.V1[opt] == "" {
				m.V1[opt] = mount.Mountpoint
			}
		}
	}
	return m, nil
}

// Dir is the directory of a cgroup: in the controller's tree on v1, in the only tree on v2. It is "" on a host
// without that controller.
func (m Mounts) Dir(controller, path string) string {
	root := m.Unified
	if root == "" {
		root = m.V1[controller]
	}
	if root == "" {
		return ""
	}
	return root + path
}

// Path is where an OCI cgroupsPath, a path or slice:prefix:name, leads below each mount point. One that means
// the root, in which everything is, is ErrInvalidArgument.
func Path(oci string) (string, error) {
	path := oci
	if parts := strings.Split(oci, ":"); len(parts) == 3 {
		path = filepath.Join(Slice(parts[0]), parts[1]+"-"+parts[2]+".scope")
	}
	path = filepath.Clean("/" + path)
	if path == "/" {
		return "", fmt.Errorf("cgroup %q is the root: %w", oci, errdefs.ErrInvalidArgument)
	}
	return path, nil
}

// Slice turns a-b.slice into /a.slice/a-b.slice (systemd.slice(5)).
func Slice(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" || name == "" {
		return "/"
	}
	path, prefix := "/", ""
	for _, part := range strings.Split(name, "-") {
		prefix += part
		path = filepath.Join(path, prefix+".slice")
		prefix += "-"
	}
	return path
}
