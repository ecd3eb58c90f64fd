package nri

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// generator is what the library's own generator stands on. The one of runtime-tools does not build with the
// runtime-spec of today. The configurations it gets are ours: process, linux and linux.resources are there.
type generator struct{ spec *specs.Spec }

func (g generator) Spec() *specs.Spec { return g.spec }

func (g generator) AddAnnotation(key, value string) {
	if g.spec.Annotations == nil {
		g.spec.Annotations = map[string]string{}
	}
	g.spec.Annotations[key] = value
}

func (g generator) RemoveAnnotation(key string) { delete(g.spec.Annotations, key) }

func (g generator) SetProcessArgs(args []string) { g.spec.Process.Args = args }
func (g generator) SetProcessOOMScoreAdj(n int)  { g.spec.Process.OOMScoreAdj = &n }
func (g generator) ClearProcessEnv()             { g.spec.Process.Env = []string{} }
func (g generator) AddProcessEnv(name, val string) {
	g.spec.Process.Env = append(g.spec.Process.Env, name+"="+val)
}

func (g generator) hooks() *specs.Hooks {
	if g.spec.Hooks == nil {
		g.spec.Hooks = &specs.Hooks{}
	}
	return g.spec.Hooks
}

func (g generator) AddPreStartHook(h specs.Hook) {
	g.hooks().Prestart = append(g.hooks().Prestart, h) //nolint:staticcheck // deprecated, still in the interface
}
func (g generator) AddPostStartHook(h specs.Hook) {
	g.hooks().Poststart = append(g.hooks().Poststart, h)
}
func (g generator) AddPostStopHook(h specs.Hook) { g.hooks().Poststop = append(g.hooks().Poststop, h) }

func (g generator) Mounts() []specs.Mount  { return g.spec.Mounts }
func (g generator) AddMount(m specs.Mount) { g.spec.Mounts = append(g.spec.Mounts, m) }
func (g generator) ClearMounts()           { g.spec.Mounts = nil }
func (g generator) RemoveMount(dest string) {
	g.spec.Mounts = slices.DeleteFunc(g.spec.Mounts, func(m specs.Mount) bool { return m.Destination == dest })
}

func (g generator) AddDevice(d specs.LinuxDevice) {
	g.RemoveDevice(d.Path)
	g.spec.Linux.Devices = append(g.spec.Linux.Devices, d)
}

func (g generator) RemoveDevice(path string) {
	g.spec.Linux.Devices = slices.DeleteFunc(g.spec.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == path })
}

func (g generator) AddOrReplaceLinuxNamespace(kind, path string) error {
	t, err := namespaceType(kind)
	if err != nil {
		return err
	}
	n := specs.LinuxNamespace{Type: t, Path: path}
	i := slices.IndexFunc(g.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
	if i < 0 {
		g.spec.Linux.Namespaces = append(g.spec.Linux.Namespaces, n)
	} else {
		g.spec.Linux.Namespaces[i] = n
	}
	return nil
}

func (g generator) RemoveLinuxNamespace(kind string) error {
	t, err := namespaceType(kind)
	g.spec.Linux.Namespaces = slices.DeleteFunc(g.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
	return err
}

func namespaceType(kind string) (specs.LinuxNamespaceType, error) {
	all := []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
	}
	if t := specs.LinuxNamespaceType(kind); slices.Contains(all, t) {
		return t, nil
	}
	return "", fmt.Errorf("namespace %.60q: want one of %v: %w", kind, all, errdefs.ErrInvalidArgument)
}

func (g generator) SetLinuxRootPropagation(p string) error {
	if p != "rshared" && p != "rslave" && p != "rprivate" {
		return fmt.Errorf("rootfs propagation %.60q: want rshared, rslave or rprivate: %w", p, errdefs.ErrInvalidArgument)
	}
	g.spec.Linux.RootfsPropagation = p
	return nil
}

func (g generator) AddLinuxSysctl(key, value string) {
	if g.spec.Linux.Sysctl == nil {
		g.spec.Linux.Sysctl = map[string]string{}
	}
	g.spec.Linux.Sysctl[key] = value
}

func (g generator) RemoveLinuxSysctl(key string)     { delete(g.spec.Linux.Sysctl, key) }
func (g generator) SetLinuxCgroupsPath(path string)  { g.spec.Linux.CgroupsPath = path }
func (g generator) resources() *specs.LinuxResources { return g.spec.Linux.Resources }

func (g generator) cpu() *specs.LinuxCPU {
	if g.resources().CPU == nil {
		g.resources().CPU = &specs.LinuxCPU{}
	}
	return g.resources().CPU
}

func (g generator) memory() *specs.LinuxMemory {
	if g.resources().Memory == nil {
		g.resources().Memory = &specs.LinuxMemory{}
	}
	return g.resources().Memory
}

func (g generator) SetLinuxResourcesCPUCpus(cpus string)        { g.cpu().Cpus = cpus }
func (g generator) SetLinuxResourcesCPUMems(mems string)        { g.cpu().Mems = mems }
func (g generator) SetLinuxResourcesCPUPeriod(n uint64)         { g.cpu().Period = &n }
func (g generator) SetLinuxResourcesCPUQuota(n int64)           { g.cpu().Quota = &n }
func (g generator) SetLinuxResourcesCPUShares(n uint64)         { g.cpu().Shares = &n }
func (g generator) SetLinuxResourcesCPURealtimePeriod(n uint64) { g.cpu().RealtimePeriod = &n }
func (g generator) SetLinuxResourcesCPURealtimeRuntime(n int64) { g.cpu().RealtimeRuntime = &n }
func (g generator) SetLinuxResourcesMemoryLimit(n int64)        { g.memory().Limit = &n }
func (g generator) SetLinuxResourcesMemorySwap(n int64)         { g.memory().Swap = &n }

func (g generator) AddLinuxResourcesHugepageLimit(size string, limit uint64) {
	r := g.resources()
	r.HugepageLimits = slices.DeleteFunc(r.HugepageLimits, func(h specs.LinuxHugepageLimit) bool { return h.Pagesize == size })
	r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
}

func (g generator) AddLinuxResourcesUnified(key, value string) {
	if g.resources().Unified == nil {
		g.resources().Unified = map[string]string{}
	}
	g.resources().Unified[key] = value
}

func (g generator) AddLinuxResourcesDevice(allow bool, kind string, major, minor *int64, access string) {
	g.resources().Devices = append(g.resources().Devices, specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access})
}
