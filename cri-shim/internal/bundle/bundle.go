// Package bundle turns a container's record, its image's configuration and the facts of the host into the OCI
// config.json. It is pure: it reads no file and asks no kernel; what has to be looked up is in its Input.
//
// Crash story: none; it keeps nothing.
package bundle

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// ociVersion is the oldest version of the runtime specification that has what every runtime must understand of what
// we write: a newer one than it knows makes crun refuse. ID-mapped mounts are newer, and are written only for a
// runtime that has said that it can.
const ociVersion = "1.0.2"

// Cgroups says where the cgroups of containers are made.
type Cgroups struct {
	Parent  string // for sandboxes that name none
	Systemd bool   // through systemd: parents are slices
}

// Path returns the OCI cgroupsPath for a container or an init. A parent that does not fit the driver is
// ErrInvalidArgument.
func (c Cgroups) Path(parent string, id pod.ID) (string, error) {
	if parent == "" {
		parent = c.Parent
	}
	if c.Systemd {
		slice := filepath.Base(parent)
		if !strings.HasSuffix(slice, ".slice") {
			return "", fmt.Errorf("cgroup_parent %q: must be a *.slice with the systemd cgroup driver: %w", parent, errdefs.ErrInvalidArgument)
		}
		return slice + ":cri-shim:" + string(id), nil
	}
	if strings.HasSuffix(parent, ".slice") && !strings.Contains(parent, "/") {
		return "", fmt.Errorf("cgroup_parent %q: must be a path with the cgroupfs driver: %w", parent, errdefs.ErrInvalidArgument)
	}
	return filepath.Join("/", parent, string(id)), nil
}

// User is whom the container's process runs as, found in the image's root file system.
type User struct {
	UID, GID uint32
	Groups   []uint32 // without GID
	Home     string   // "" when the user has no entry
}

// Volume is one mount of the request, looked up on the host.
type Volume struct {
	pod.Mount
	Source string // HostPath with its symbolic links followed
}

// Input is all that a config.json depends on.
type Input struct {
	Sandbox   pod.Sandbox
	Container pod.Container
	Image     pod.Image
	User      User
	Volumes   []Volume            // as the request lists them
	Anonymous []Volume            // of the image's VOLUMEs that no mount of the request covers
	Devices   []specs.LinuxDevice // for the whole host when privileged, unless the handler says otherwise
	Rules     []specs.LinuxDeviceCgroup
	Seccomp   *specs.LinuxSeccomp // a localhost profile that was read, else nil
	AppArmor  string              // a profile that is loaded, "" for none
	// ProcessLabel and MountLabel are SELinux contexts; "" for none.
	ProcessLabel, MountLabel string
	Handler                  Handler
	Facts                    hostinfo.Facts
	Layout                   paths.Layout
	Cgroups                  Cgroups
}

// Spec returns the configuration of a container. What contradicts itself in the request, or cannot be had on
// this host, is ErrInvalidArgument and names the field.
func Spec(in Input) (*specs.Spec, error) {
	c := in.Container.Config
	args, err := Args(c, in.Image)
	if err != nil {
		return nil, err
	}
	env, err := environment(in)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(c, in.Facts.Caps)
	if err != nil {
		return nil, err
	}
	if err := mapped(in); err != nil {
		return nil, err
	}
	cgroup, err := in.Cgroups.Path(in.Sandbox.Config.CgroupParent, in.Container.ID)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := mounts(in)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version: ociVersion,
		Root:    &specs.Root{Path: in.Layout.Rootfs(string(in.Container.ID)), Readonly: c.Security.ReadonlyRootfs},
		Process: &specs.Process{
			Terminal: c.TTY, Args: args, Env: env, Cwd: workingDir(c, in.Image),
			User:         specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: additionalGids(in.User)},
			Capabilities: caps, NoNewPrivileges: c.Security.NoNewPrivileges,
			Rlimits:     rlimits(in.Facts),
			OOMScoreAdj: oomScoreAdj(c.Resources.OOMScoreAdj, in.Facts),
		},
		Mounts:      mounts,
		Annotations: in.Handler.annotations(in.Sandbox, in.Container),
		Linux: &specs.Linux{
			CgroupsPath: cgroup, RootfsPropagation: propagation,
			Namespaces: namespaces(in), Devices: in.Devices,
			Resources: resources(in),
		},
	}
	if !filepath.IsAbs(spec.Process.Cwd) || strings.HasPrefix(filepath.Clean(spec.Process.Cwd), "/proc/self/fd") {
		return nil, fmt.Errorf("working_dir %.200q: must be an absolute path inside the container: %w", spec.Process.Cwd, errdefs.ErrInvalidArgument)
	}
	if !c.Privileged {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = c.Security.MaskedPaths, c.Security.ReadonlyPaths
	}
	return spec, confine(spec, in)
}

// mapped refuses a user or a group that the pod's user namespace does not have.
func mapped(in Input) error {
	u := in.Sandbox.Config.Namespaces.User
	if u == nil {
		return nil
	}
	if in.User.UID >= u.UID.Length {
		return fmt.Errorf("user %d: the pod's user namespace has %d users: %w", in.User.UID, u.UID.Length, errdefs.ErrInvalidArgument)
	}
	for _, g := range additionalGids(in.User) {
		if g >= u.GID.Length {
			return fmt.Errorf("group %d: the pod's user namespace has %d groups: %w", g, u.GID.Length, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// confine adds the seccomp filter and the labels of the security modules. What the host cannot enforce is refused,
// never dropped.
func confine(spec *specs.Spec, in Input) error {
	c := in.Container.Config
	if !c.Privileged {
		switch c.Security.Seccomp.Kind {
		case pod.ProfileDefault:
			spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
		case pod.ProfileLocalhost:
			spec.Linux.Seccomp = in.Seccomp
		}
	}
	spec.Process.ApparmorProfile = in.AppArmor
	spec.Process.SelinuxLabel, spec.Linux.MountLabel = in.ProcessLabel, in.MountLabel
	if l := c.Security.SELinux; l != (pod.SELinuxLabel{}) && in.Facts.SELinux && in.MountLabel == "" {
		return fmt.Errorf("selinux_options: this host has SELinux, and enable_selinux is false: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Args returns the command line: command replaces entrypoint and command of the image, args only the command.
func Args(c pod.ContainerConfig, img pod.Image) ([]string, error) {
	command, args := c.Command, c.Args
	if len(command) == 0 {
		command = img.Config.Entrypoint
		if len(args) == 0 {
			args = img.Config.Cmd
		}
	}
	line := append(append([]string{}, command...), args...)
	if len(line) == 0 || line[0] == "" {
		return nil, fmt.Errorf("command and args are empty, and image %s names none: %w", img.ID, errdefs.ErrInvalidArgument)
	}
	return line, nil
}

func workingDir(c pod.ContainerConfig, img pod.Image) string {
	for _, dir := range []string{c.WorkingDir, img.Config.WorkingDir} {
		if dir != "" {
			return dir
		}
	}
	return "/"
}

// environment is the image's, changed in place and extended by the request's.
func environment(in Input) ([]string, error) {
	c := in.Container.Config
	var env []string
	at := map[string]int{}
	set := func(key, value string) {
		if i, ok := at[key]; ok {
			env[i] = key + "=" + value
			return
		}
		at[key] = len(env)
		env = append(env, key+"="+value)
	}
	for _, kv := range in.Image.Config.Env {
		if key, value, ok := strings.Cut(kv, "="); ok && key != "" {
			set(key, value)
		}
	}
	for _, e := range c.Env {
		if e.Key == "" || strings.ContainsAny(e.Key, "=\x00") || strings.Contains(string(e.Value), "\x00") {
			return nil, fmt.Errorf("envs: key %.100q: must not be empty nor hold = or NUL: %w", e.Key, errdefs.ErrInvalidArgument)
		}
		set(e.Key, string(e.Value))
	}
	defaults := [][2]string{{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, {"HOSTNAME", in.Sandbox.Config.Hostname}}
	if c.TTY {
		defaults = append(defaults, [2]string{"TERM", "xterm"})
	}
	if in.User.Home != "" {
		defaults = append(defaults, [2]string{"HOME", in.User.Home})
	}
	for _, d := range defaults {
		if _, ok := at[d[0]]; !ok && d[1] != "" {
			set(d[0], d[1])
		}
	}
	return env, nil
}

// additionalGids holds the primary group too: a process that drops it with setgroups(2) must not gain by that
// (CVE-2023-25173).
func additionalGids(u User) []uint32 {
	out := []uint32{u.GID}
	for _, g := range u.Groups {
		if g != u.GID {
			out = append(out, g)
		}
	}
	return out
}

// rlimits are set here and not inherited: how cri-shim was started must not show inside.
func rlimits(f hostinfo.Facts) []specs.POSIXRlimit {
	const nofile = 1048576
	n := min(uint64(nofile), f.NofileHard)
	return []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: n, Hard: n}}
}

// oomScoreAdj cannot go below our own score without CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5)).
func oomScoreAdj(want int64, f hostinfo.Facts) *int {
	n := int(max(-1000, min(1000, want)))
	if !f.CanLowerOOM {
		n = max(n, f.OOMScoreAdj)
	}
	return &n
}
