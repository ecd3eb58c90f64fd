package criserver

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// containerIn checks and translates what a caller asks of a container.
func containerIn(f *faults, c *runtime.ContainerConfig) pod.ContainerConfig {
	if c == nil {
		f.missing("config")
		return pod.ContainerConfig{}
	}
	m := c.GetMetadata()
	if m == nil {
		f.missing("config.metadata")
	} else {
		f.name("config.metadata.name", m.GetName())
	}
	imageIn(f, "config.image", c.GetImage())
	f.noNUL("config.command", c.GetCommand())
	f.noNUL("config.args", c.GetArgs())
	f.workingDir("config.working_dir", c.GetWorkingDir())
	f.metadata("config.labels", c.GetLabels())
	f.metadata("config.annotations", c.GetAnnotations())
	if c.GetLogPath() != "" {
		f.relative("config.log_path", c.GetLogPath())
	}
	if r := c.GetLinux().GetResources(); r.GetMemorySwapLimitInBytes() > 0 && r.GetMemoryLimitInBytes() == 0 {
		f.bad("config.linux.resources.memory_swap_limit_in_bytes", r.GetMemorySwapLimitInBytes(), "memory_limit_in_bytes with it: it limits both together")
	}
	sc := c.GetLinux().GetSecurityContext()
	return pod.ContainerConfig{
		Name: m.GetName(), Attempt: m.GetAttempt(),
		Image:              c.GetImage().GetImage(),
		UserSpecifiedImage: c.GetImage().GetUserSpecifiedImage(),
		Command:            c.GetCommand(),
		Args:               c.GetArgs(),
		WorkingDir:         c.GetWorkingDir(),
		Env:                envIn(f, c.GetEnvs()),
		Mounts:             mountsIn(f, c.GetMounts()),
		Devices:            devicesIn(f, c.GetDevices()),
		CDIDevices:         cdiIn(f, c.GetCDIDevices()),
		Labels:             c.GetLabels(),
		Annotations:        c.GetAnnotations(),
		LogPath:            c.GetLogPath(),
		Stdin:              c.GetStdin(), StdinOnce: c.GetStdinOnce(), TTY: c.GetTty(),
		StopSignal: signalIn(f, "config.stop_signal", c.GetStopSignal()),
		Namespaces: containerNamespacesIn(f, sc.GetNamespaceOptions()),
		Privileged: sc.GetPrivileged(),
		Security:   containerSecurityIn(f, sc),
		Resources:  resourcesIn(f, "config.linux.resources", c.GetLinux().GetResources()),
	}
}

// insideIn checks what a container asks against the sandbox it will be in.
func insideIn(f *faults, c *pod.ContainerConfig, s pod.Sandbox) {
	if c.Privileged && !s.Config.Privileged {
		f.bad(securityField+".privileged", true, "a privileged sandbox for a privileged container")
	}
	if c.Namespaces == (pod.Namespaces{}) {
		c.Namespaces = s.Config.Namespaces
		return
	}
	switch have := s.Config.Namespaces.User; {
	case c.Namespaces.User == nil:
		c.Namespaces.User = have
	case have == nil || *have != *c.Namespaces.User:
		f.bad(securityField+".namespace_options.userns_options", "POD", "the mappings of the sandbox")
	}
	if c.Namespaces.PID != pod.ModePod {
		return
	}
	// POD is whatever the pod has: the node's namespace, when the pod uses that.
	switch s.Config.Namespaces.PID {
	case pod.ModeNode:
		c.Namespaces.PID = pod.ModeNode
	case pod.ModeContainer:
		f.bad(securityField+".namespace_options.pid", "POD", "CONTAINER: the sandbox was made with CONTAINER and has no PID namespace to share")
	}
}

// envIn never shows a value: it may be a secret.
func envIn(f *faults, envs []*runtime.KeyValue) []pod.EnvVar {
	out := make([]pod.EnvVar, 0, len(envs))
	for i, e := range envs {
		field := fmt.Sprintf("config.envs[%d]", i)
		switch k := e.GetKey(); {
		case k == "":
			f.missing(field + ".key")
		case strings.ContainsAny(k, "=\x00"):
			f.bad(field+".key", k, "a key without '=' and NUL")
		}
		if strings.ContainsRune(string(e.GetValue()), 0) {
			f.invalid = append(f.invalid, field+".value: want a value without NUL")
		}
		out = append(out, pod.EnvVar{Key: e.GetKey(), Value: e.GetValue()})
	}
	return out
}

var propagations = map[runtime.MountPropagation]pod.Propagation{
	runtime.MountPropagation_PROPAGATION_PRIVATE:           pod.PropagationPrivate,
	runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: pod.PropagationSlave,
	runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL:     pod.PropagationShared,
}

func mountsIn(f *faults, mounts []*runtime.Mount) []pod.Mount {
	out := make([]pod.Mount, 0, len(mounts))
	for i, m := range mounts {
		field := fmt.Sprintf("config.mounts[%d]", i)
		f.absolute(field+".container_path", m.GetContainerPath())
		propagation, ok := propagations[m.GetPropagation()]
		if !ok {
			f.bad(field+".propagation", int32(m.GetPropagation()), "PRIVATE, HOST_TO_CONTAINER or BIDIRECTIONAL")
		}
		if m.GetRecursiveReadOnly() && (!m.GetReadonly() || propagation != pod.PropagationPrivate) {
			f.bad(field+".recursive_read_only", true, "readonly and PROPAGATION_PRIVATE with it")
		}
		mountSourceIn(f, field, m)
		if (len(m.GetUidMappings()) == 0) != (len(m.GetGidMappings()) == 0) {
			f.bad(field, fmt.Sprintf("%d uidMappings and %d gidMappings", len(m.GetUidMappings()), len(m.GetGidMappings())), "both or none")
		}
		out = append(out, pod.Mount{
			ContainerPath: m.GetContainerPath(), HostPath: m.GetHostPath(),
			Readonly: m.GetReadonly(), RecursiveReadonly: m.GetRecursiveReadOnly(),
			SELinuxRelabel: m.GetSelinuxRelabel(), Propagation: propagation,
			UIDs: mappingsIn(f, field+".uidMappings", m.GetUidMappings()), GIDs: mappingsIn(f, field+".gidMappings", m.GetGidMappings()),
			Image: m.GetImage().GetImage(), SubPath: m.GetImageSubPath(),
			Options: mountOptionsIn(f, field+".mount_options", m.GetMountOptions()),
		})
	}
	return out
}

// ofOpener are paths that would lead to files of ours, or to what a process has open at the moment.
var ofOpener = regexp.MustCompile(`^/(dev/(fd|stdin|stdout|stderr)|proc/(self|thread-self)|proc/[0-9]+/(task/[0-9]+/)?fd)(/|$)`)

// mountSourceIn checks that a mount shows either a path of the host or an image.
func mountSourceIn(f *faults, field string, m *runtime.Mount) {
	if m.GetImage().GetImage() == "" {
		f.absolute(field+".host_path", m.GetHostPath())
		if ofOpener.MatchString(path.Clean(m.GetHostPath())) {
			f.bad(field+".host_path", m.GetHostPath(), "a path that does not depend on who opens it, or when")
		}
		if m.GetImageSubPath() != "" {
			f.bad(field+".image_sub_path", m.GetImageSubPath(), "image with it")
		}
		return
	}
	imageIn(f, field+".image", m.GetImage())
	if m.GetHostPath() != "" {
		f.bad(field+".host_path", m.GetHostPath(), "none with image")
	}
	if !m.GetReadonly() {
		f.bad(field+".readonly", false, "true with image: images are not written")
	}
	if m.GetPropagation() != runtime.MountPropagation_PROPAGATION_PRIVATE {
		f.bad(field+".propagation", m.GetPropagation(), "PRIVATE with image")
	}
	if sub := m.GetImageSubPath(); sub != "" {
		f.relative(field+".image_sub_path", sub)
	}
}

// mountOptionsIn accepts what restricts, and nothing else (cri-api 0.37, Mount.mount_options).
func mountOptionsIn(f *faults, field string, options []string) []string {
	for i, o := range options {
		if o != "noexec" && o != "nodev" && o != "nosuid" {
			f.bad(fmt.Sprintf("%s[%d]", field, i), o, "noexec, nodev or nosuid")
		}
	}
	return options
}

func devicesIn(f *faults, devices []*runtime.Device) []pod.Device {
	out := make([]pod.Device, 0, len(devices))
	for i, d := range devices {
		field := fmt.Sprintf("config.devices[%d]", i)
		f.absolute(field+".host_path", d.GetHostPath())
		f.absolute(field+".container_path", d.GetContainerPath())
		if p := d.GetPermissions(); p == "" || strings.Trim(p, "rwm") != "" {
			f.bad(field+".permissions", p, `one or more of "rwm"`)
		}
		out = append(out, pod.Device{
			ContainerPath: d.GetContainerPath(), HostPath: d.GetHostPath(), Permissions: d.GetPermissions(),
		})
	}
	return out
}

// cdiForm is a qualified name (CDI specification, "kind" and "name").
var cdiForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*/[A-Za-z][A-Za-z0-9_-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*$`)

func cdiIn(f *faults, devices []*runtime.CDIDevice) []string {
	var out []string
	for i, d := range devices {
		field := fmt.Sprintf("config.CDI_devices[%d].name", i)
		if d.GetName() == "" {
			f.missing(field)
		}
		f.matches(field, d.GetName(), cdiForm, `a name like "vendor.com/class=name"`)
		out = append(out, d.GetName())
	}
	return out
}

var (
	cpusForm     = regexp.MustCompile(`^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$`)
	pageSizeForm = regexp.MustCompile(`^[0-9]+[KMG]i?B$`)
	unifiedForm  = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$`)
)

func resourcesIn(f *faults, field string, r *runtime.LinuxContainerResources) pod.Resources {
	const most = 1<<63 - 1
	f.within(field+".cpu_period", r.GetCpuPeriod(), 0, most)
	f.within(field+".cpu_quota", r.GetCpuQuota(), -1, most)
	f.within(field+".cpu_shares", r.GetCpuShares(), 0, most)
	f.within(field+".memory_limit_in_bytes", r.GetMemoryLimitInBytes(), -1, most)
	f.within(field+".memory_swap_limit_in_bytes", r.GetMemorySwapLimitInBytes(), -1, most)
	f.within(field+".oom_score_adj", r.GetOomScoreAdj(), -1000, 1000)
	f.matches(field+".cpuset_cpus", r.GetCpusetCpus(), cpusForm, `a list like "0-2,7"`)
	f.matches(field+".cpuset_mems", r.GetCpusetMems(), cpusForm, `a list like "0-2,7"`)
	out := pod.Resources{
		CPUPeriod: r.GetCpuPeriod(), CPUQuota: r.GetCpuQuota(), CPUShares: r.GetCpuShares(),
		MemoryLimit: r.GetMemoryLimitInBytes(), MemorySwap: r.GetMemorySwapLimitInBytes(),
		OOMScoreAdj: r.GetOomScoreAdj(),
		CpusetCPUs:  r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(),
		Unified: r.GetUnified(),
	}
	for i, h := range r.GetHugepageLimits() {
		f.matches(fmt.Sprintf("%s.hugepage_limits[%d].page_size", field, i), h.GetPageSize(), pageSizeForm, `a size like "2MB"`)
		if out.HugepageCaps == nil {
			out.HugepageCaps = make(map[string]uint64)
		}
		out.HugepageCaps[h.GetPageSize()] = h.GetLimit()
	}
	for k, v := range r.GetUnified() {
		if !unifiedForm.MatchString(k) {
			f.bad(field+".unified", k, `the name of a cgroup v2 file, like "memory.high"`)
		}
		if strings.ContainsRune(v, 0) {
			f.bad(field+".unified["+cut(k)+"]", v, "a value without NUL")
		}
	}
	return out
}

func imageIn(f *faults, field string, s *runtime.ImageSpec) {
	const most = 4096
	switch ref := s.GetImage(); {
	case ref == "":
		f.missing(field + ".image")
	case len(ref) > most || hasSpace(ref):
		f.bad(field+".image", ref, "the name or the id of an image")
	}
}
