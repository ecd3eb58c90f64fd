package criserver

import (
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type (
	containerChange = func(*runtime.ContainerConfig, *security)
	security        = runtime.LinuxContainerSecurityContext
)

func mount(m *runtime.Mount) containerChange {
	return func(c *runtime.ContainerConfig, _ *security) { c.Mounts = []*runtime.Mount{m} }
}

func device(d *runtime.Device) containerChange {
	return func(c *runtime.ContainerConfig, _ *security) { c.Devices = []*runtime.Device{d} }
}

func resources(r *runtime.LinuxContainerResources) containerChange {
	return func(c *runtime.ContainerConfig, _ *security) { c.Linux.Resources = r }
}

func secure(f func(*security)) containerChange {
	return func(_ *runtime.ContainerConfig, s *security) { f(s) }
}

func profile(kind runtime.SecurityProfile_ProfileType, ref string) *runtime.SecurityProfile {
	return &runtime.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
}

func value(n int64) *runtime.Int64Value { return &runtime.Int64Value{Value: n} }

// image is a mount of an image as it should be, changed.
func image(ref string, change func(*runtime.Mount)) *runtime.Mount {
	m := &runtime.Mount{ContainerPath: "/a", Image: &runtime.ImageSpec{Image: ref}, Readonly: true}
	if change != nil {
		change(m)
	}
	return m
}

var refusedContainers = []struct {
	name   string
	change containerChange
	want   string
}{
	{"metadata", func(c *runtime.ContainerConfig, _ *security) { c.Metadata = nil }, "config.metadata is missing"},
	{"name", func(c *runtime.ContainerConfig, _ *security) { c.Metadata.Name = "" }, "config.metadata.name is missing"},
	{"name path", func(c *runtime.ContainerConfig, _ *security) { c.Metadata.Name = "a/b" }, "config.metadata.name"},
	{"image", func(c *runtime.ContainerConfig, _ *security) { c.Image = nil }, "config.image.image is missing"},
	{"image space", func(c *runtime.ContainerConfig, _ *security) { c.Image.Image = "a b" }, "config.image.image"},
	{"command", func(c *runtime.ContainerConfig, _ *security) { c.Command = []string{"a\x00"} }, "config.command[0]"},
	{"working dir", func(c *runtime.ContainerConfig, _ *security) { c.WorkingDir = "tmp" }, "config.working_dir"},
	{"working dir fd", func(c *runtime.ContainerConfig, _ *security) { c.WorkingDir = "/proc/self/fd/7" }, "file descriptor"},
	{"working dir fd 2", func(c *runtime.ContainerConfig, _ *security) { c.WorkingDir = "/dev/fd//8/" }, "file descriptor"},
	{"env key", func(c *runtime.ContainerConfig, _ *security) { c.Envs = []*runtime.KeyValue{{Value: []byte("x")}} }, "config.envs[0].key is missing"},
	{"env key =", func(c *runtime.ContainerConfig, _ *security) { c.Envs = []*runtime.KeyValue{{Key: "a=b"}} }, "config.envs[0].key"},
	{"env NUL", func(c *runtime.ContainerConfig, _ *security) {
		c.Envs = []*runtime.KeyValue{{Key: "a", Value: []byte{0}}}
	}, "config.envs[0].value"},
	{"log path", func(c *runtime.ContainerConfig, _ *security) { c.LogPath = "/etc/cron.d/x" }, "config.log_path"},
	{"log path climbs", func(c *runtime.ContainerConfig, _ *security) { c.LogPath = "a/../../etc/cron.d/x" }, "config.log_path"},
	{"log path dot", func(c *runtime.ContainerConfig, _ *security) { c.LogPath = "./" }, "config.log_path"},
	{"stop signal", func(c *runtime.ContainerConfig, _ *security) { c.StopSignal = 99 }, "config.stop_signal"},
	{"relative mount", mount(&runtime.Mount{ContainerPath: "a", HostPath: "/a"}), "mounts[0].container_path"},
	{"climbing mount", mount(&runtime.Mount{ContainerPath: "/a/../b", HostPath: "/a"}), "mounts[0].container_path"},
	{"relative source", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "a"}), "mounts[0].host_path"},
	{"no source", mount(&runtime.Mount{ContainerPath: "/a"}), "mounts[0].host_path"},
	{"file of ours", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/proc/self/fd/7"}), "mounts[0].host_path"},
	{"root of ours", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/proc//thread-self/root"}), "mounts[0].host_path"},
	{"file of another", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/proc/1/task/1/fd/3"}), "mounts[0].host_path"},
	{"propagation", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/a", Propagation: 7}), "propagation"},
	{"rro without ro", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/a", RecursiveReadOnly: true}), "recursive_read_only"},
	{"rro and slave", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/a", Readonly: true, RecursiveReadOnly: true, Propagation: 1}), "recursive_read_only"},
	{"overflowing mapping", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/a", UidMappings: []*runtime.IDMapping{{HostId: 1<<32 - 1, Length: 1}}, GidMappings: []*runtime.IDMapping{goodMap}}), "uidMappings[0]"},
	{"sub path", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/a", ImageSubPath: "x"}), "image_sub_path"},
	{"image and path", mount(image("x", func(m *runtime.Mount) { m.HostPath = "/a" })), "mounts[0].host_path"},
	{"writable image", mount(image("x", func(m *runtime.Mount) { m.Readonly = false })), "mounts[0].readonly"},
	{"shared image", mount(image("x", func(m *runtime.Mount) { m.Propagation = 2 })), "mounts[0].propagation"},
	{"image name", mount(image("a b", nil)), "mounts[0].image.image"},
	{"sub path out of an image", mount(image("x", func(m *runtime.Mount) { m.ImageSubPath = "../etc" })), "image_sub_path"},
	{"option", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/a", MountOptions: []string{"nodev", "suid"}}), `mount_options[1] "suid": want noexec, nodev or nosuid`},
	{"users and no groups", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/a", UidMappings: []*runtime.IDMapping{goodMap}}), "want both or none"},
	{"mapping", mount(&runtime.Mount{ContainerPath: "/a", HostPath: "/a", UidMappings: []*runtime.IDMapping{{}}, GidMappings: []*runtime.IDMapping{goodMap}}), "uidMappings[0]"},
	{"CDI name", func(c *runtime.ContainerConfig, _ *security) { c.CDIDevices = []*runtime.CDIDevice{{Name: "../x=y"}} }, "CDI_devices[0].name"},
	{"no CDI name", func(c *runtime.ContainerConfig, _ *security) { c.CDIDevices = []*runtime.CDIDevice{{}} }, "CDI_devices[0].name is missing"},
	{"user namespace", secure(func(s *security) {
		o := userns(runtime.NamespaceMode_POD, goodMap)
		o.UsernsOptions.Gids = o.UsernsOptions.Uids
		s.NamespaceOptions = o
	}), "the mappings of the sandbox"},
	{"device", device(&runtime.Device{ContainerPath: "/a", HostPath: "/a", Permissions: "rx"}), "permissions"},
	{"device none", device(&runtime.Device{ContainerPath: "/a", HostPath: "/a"}), "permissions"},
	{"device path", device(&runtime.Device{ContainerPath: "/a", HostPath: "/dev/../etc", Permissions: "r"}), "host_path"},
	{"user", secure(func(s *security) { s.RunAsUser = value(1 << 31) }), "run_as_user 2147483648: want a number from 0 to 2147483647"},
	{"user below", secure(func(s *security) { s.RunAsUser = value(-1 << 63) }), "run_as_user"},
	{"group only", secure(func(s *security) { s.RunAsGroup = value(5) }), "run_as_group"},
	{"two users", secure(func(s *security) { s.RunAsUser, s.RunAsUsername = value(5), "bob" }), "run_as_username"},
	{"user name", secure(func(s *security) { s.RunAsUsername = "a:b" }), "run_as_username"},
	{"groups", secure(func(s *security) { s.SupplementalGroups = []int64{1, -1} }), "supplemental_groups[1]"},
	{"groups policy", secure(func(s *security) { s.SupplementalGroupsPolicy = 5 }), "supplemental_groups_policy"},
	{"capability", secure(func(s *security) { s.Capabilities = &runtime.Capability{AddCapabilities: []string{"FLY"}} }), "add_capabilities[0]"},
	{"drop", secure(func(s *security) { s.Capabilities = &runtime.Capability{DropCapabilities: []string{""}} }), "drop_capabilities[0]"},
	{"masked", secure(func(s *security) { s.MaskedPaths = []string{"proc"} }), "masked_paths[0]"},
	{"read-only", secure(func(s *security) { s.ReadonlyPaths = []string{"/a/.."} }), "readonly_paths[0]"},
	{"seccomp empty", secure(func(s *security) { s.Seccomp = profile(runtime.SecurityProfile_Localhost, "") }), "seccomp.localhost_ref"},
	{"seccomp relative", secure(func(s *security) { s.Seccomp = profile(runtime.SecurityProfile_Localhost, "p.json") }), "seccomp.localhost_ref"},
	{"seccomp kind", secure(func(s *security) { s.Seccomp = profile(8, "") }), "seccomp.profile_type"},
	{"seccomp text", secure(func(s *security) { s.SeccompProfilePath = "none" }), "seccomp_profile"}, //nolint:staticcheck // deprecated, still in the API
	{"apparmor empty", secure(func(s *security) { s.Apparmor = profile(runtime.SecurityProfile_Localhost, "") }), "apparmor.localhost_ref"},
	{"selinux", secure(func(s *security) { s.SelinuxOptions = &runtime.SELinuxOption{Type: "a:b"} }), "selinux_options.type"},
	{"selinux user", secure(func(s *security) { s.SelinuxOptions = &runtime.SELinuxOption{User: "a:b"} }), "selinux_options.user"},
	{"selinux role", secure(func(s *security) { s.SelinuxOptions = &runtime.SELinuxOption{Role: "a:b"} }), "selinux_options.role"},
	{"selinux level", secure(func(s *security) { s.SelinuxOptions = &runtime.SELinuxOption{Level: "top secret"} }), "selinux_options.level"},
	{"network", secure(func(s *security) { s.NamespaceOptions = &runtime.NamespaceOption{Network: 1} }), "namespace_options.network"},
	{"target", secure(func(s *security) { s.NamespaceOptions = &runtime.NamespaceOption{Pid: 3, TargetId: "../1"} }), "target_id"},
	{"no target", secure(func(s *security) { s.NamespaceOptions = &runtime.NamespaceOption{Pid: 3} }), "target_id"},
	{"privileged", secure(func(s *security) { s.Privileged = true }), "security_context.privileged"},
	{"shares", resources(&runtime.LinuxContainerResources{CpuShares: -1}), "cpu_shares"},
	{"quota", resources(&runtime.LinuxContainerResources{CpuQuota: -2}), "cpu_quota"},
	{"oom", resources(&runtime.LinuxContainerResources{OomScoreAdj: 1001}), "oom_score_adj"},
	{"cpus", resources(&runtime.LinuxContainerResources{CpusetCpus: "0;1"}), "cpuset_cpus"},
	{"swap alone", resources(&runtime.LinuxContainerResources{MemorySwapLimitInBytes: 5}), "memory_swap_limit_in_bytes 5: want memory_limit_in_bytes with it"},
	{"page size", resources(&runtime.LinuxContainerResources{HugepageLimits: []*runtime.HugepageLimit{{PageSize: "../2MB"}}}), "page_size"},
	{"unified", resources(&runtime.LinuxContainerResources{Unified: map[string]string{"../cgroup.procs": "1"}}), "unified"},
}

func TestContainerRefused(t *testing.T) {
	w := podWorld(t)
	for _, c := range refusedContainers {
		t.Run(c.name, func(t *testing.T) {
			cfg := containerConfig()
			c.change(cfg, cfg.GetLinux().GetSecurityContext())
			_, err := w.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: string(testID), Config: cfg})
			wantCode(t, err, codes.InvalidArgument, c.want)
		})
	}
	for name, c := range map[string]struct {
		m    *runtime.Mount
		code codes.Code
		want string
	}{
		"map": {
			&runtime.Mount{ContainerPath: "/a", HostPath: "/a", UidMappings: []*runtime.IDMapping{goodMap}, GidMappings: []*runtime.IDMapping{goodMap}},
			codes.Unimplemented, `mounts[0].uidMappings is not supported by runtime handler "": too old`,
		},
		// The kubelet looks for the word at the very start.
		"rro": {&runtime.Mount{ContainerPath: "/a", HostPath: "/a", Readonly: true, RecursiveReadOnly: true}, codes.Unknown, "RROUnsupported: config.mounts[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			w.pods.sandboxes[0].Config.Handler = ""
			cfg := containerConfig()
			mount(c.m)(cfg, nil)
			_, err := w.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: string(testID), Config: cfg})
			wantCode(t, err, c.code, c.want)
		})
	}
	_, err := w.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: string(testID)})
	wantCode(t, err, codes.InvalidArgument, "config is missing")
	if len(w.pods.created) != 0 {
		t.Error("a refused request came through")
	}
}
