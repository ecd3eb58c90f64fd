package bundle

import (
	"path/filepath"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// InitSpec returns the configuration of the process that holds a sandbox's shared PID namespace. It has no
// rights and no limits, and sees nothing but itself.
func InitSpec(s pod.Sandbox, f hostinfo.Facts, l paths.Layout, cg Cgroups) (*specs.Spec, error) {
	cgroup, err := cg.Path(s.Config.CgroupParent, s.ID)
	if err != nil {
		return nil, err
	}
	const nobody = 65535
	dir := l.Namespaces(string(s.ID))
	namespaces := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}
	if !s.HostNetwork() {
		namespaces = append(namespaces,
			specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: filepath.Join(dir, "net")},
			specs.LinuxNamespace{Type: specs.UTSNamespace, Path: filepath.Join(dir, "uts")})
	}
	if !s.HostIPC() {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: filepath.Join(dir, "ipc")})
	}
	user := specs.User{UID: nobody, GID: nobody}
	if u := s.Config.Namespaces.User; u != nil {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: filepath.Join(dir, "user")})
		user.UID, user.GID = min(nobody, u.UID.Length-1), min(nobody, u.GID.Length-1)
	}
	spec := &specs.Spec{
		Version: ociVersion,
		Root:    &specs.Root{Path: l.Rootfs(string(s.ID)), Readonly: true},
		Process: &specs.Process{
			Args: []string{"/pause"}, Cwd: "/", User: user,
			Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true,
			OOMScoreAdj: oomScoreAdj(-998, f),
		},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev", "ro"}}},
		Linux: &specs.Linux{
			CgroupsPath: cgroup, Namespaces: namespaces,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"},
		},
	}
	spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	return spec, nil
}
