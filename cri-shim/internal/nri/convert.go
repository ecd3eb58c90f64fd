package nri

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// snapshot is what a newcomer is told: all sandboxes, and the containers that have not ended.
func (p *Plugins) snapshot() ([]*adaptation.PodSandbox, []*adaptation.Container) {
	var pods []*adaptation.PodSandbox
	for _, s := range p.runtime.Sandboxes() {
		if s.State == pod.Ready || s.State == pod.NotReady {
			pods = append(pods, p.podOf(s))
			p.knowToo(s.ID, nil)
		}
	}
	var containers []*adaptation.Container
	for _, c := range p.runtime.Containers() {
		if c.State != pod.Created && c.State != pod.Starting && c.State != pod.Running {
			continue
		}
		spec, err := p.opt.Host.Spec(c.ID)
		if err != nil {
			p.opt.Logger.Warn("describe a container to NRI plugins", "container", c.ID, "err", err)
			spec = &specs.Spec{}
		}
		d := describe(c, spec)
		p.knowToo(c.ID, d)
		containers = append(containers, proto.Clone(d).(*adaptation.Container))
	}
	return pods, containers
}

// knowToo is know for what others may know already.
func (p *Plugins) knowToo(id pod.ID, c *adaptation.Container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.told[id] == nil {
		p.told[id] = &entry{container: c}
	}
}

// podOf describes a sandbox.
func (p *Plugins) podOf(s pod.Sandbox) *adaptation.PodSandbox {
	out := &adaptation.PodSandbox{
		Id: string(s.ID), Name: s.Config.Name, Uid: s.Config.UID, Namespace: s.Config.Namespace,
		Labels: maps.Clone(s.Config.Labels), Annotations: maps.Clone(s.Config.Annotations), RuntimeHandler: s.Config.Handler,
		Pid: uint32(s.InitPID),
		Linux: &api.LinuxPodSandbox{
			PodOverhead: resourcesOut(s.Overhead), PodResources: resourcesOut(s.Resources),
			CgroupParent: s.Config.CgroupParent, Namespaces: p.namespacesOf(s),
		},
	}
	for _, ip := range s.Network.IPs {
		out.Ips = append(out.Ips, ip.String())
	}
	return out
}

// namespacesOf are those of a sandbox that are still pinned.
func (p *Plugins) namespacesOf(s pod.Sandbox) []*api.LinuxNamespace {
	dir := p.opt.Host.NamespaceDir(string(s.ID))
	var out []*api.LinuxNamespace
	for _, n := range []struct {
		file string
		kind specs.LinuxNamespaceType
	}{
		{"net", specs.NetworkNamespace},
		{"ipc", specs.IPCNamespace},
		{"uts", specs.UTSNamespace},
		{"pid", specs.PIDNamespace},
		{"user", specs.UserNamespace},
	} {
		path := filepath.Join(dir, n.file)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		out = append(out, &api.LinuxNamespace{Type: string(n.kind), Path: path})
	}
	return out
}

// containerOf describes a container as it is now.
func (p *Plugins) containerOf(c pod.Container) *adaptation.Container {
	out, ok := p.known(c.ID)
	if !ok || out == nil {
		out = describe(c, &specs.Spec{})
	}
	out.State, out.Pid = states[c.State], uint32(c.PID)
	out.CreatedAt, out.StartedAt, out.FinishedAt = nanos(c.CreatedAt), nanos(c.StartedAt), nanos(c.Exit.FinishedAt)
	out.ExitCode, out.StatusReason, out.StatusMessage = c.Exit.Code, c.Reason, c.Message
	return out
}

// A container that is being made has no state yet.
var states = map[pod.State]api.ContainerState{
	pod.Created: api.ContainerState_CONTAINER_CREATED, pod.Starting: api.ContainerState_CONTAINER_CREATED,
	pod.Running: api.ContainerState_CONTAINER_RUNNING,
	pod.Exited:  api.ContainerState_CONTAINER_STOPPED, pod.Removing: api.ContainerState_CONTAINER_STOPPED,
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// describe tells of a container what its record and its configuration say.
func describe(c pod.Container, spec *specs.Spec) *adaptation.Container {
	out := &adaptation.Container{
		Id: string(c.ID), PodSandboxId: string(c.SandboxID), Name: c.Config.Name, State: states[c.State],
		CreatedAt: nanos(c.CreatedAt), StartedAt: nanos(c.StartedAt), Pid: uint32(c.PID),
		Labels: maps.Clone(c.Config.Labels), Annotations: annotations(c, spec),
		Mounts: api.FromOCIMounts(spec.Mounts), Hooks: api.FromOCIHooks(spec.Hooks), Image: imageOf(c),
		Linux: &api.LinuxContainer{SeccompProfile: profileOf(c.Config)},
	}
	for _, name := range c.Config.CDIDevices {
		out.CDIDevices = append(out.CDIDevices, &api.CDIDevice{Name: name})
	}
	if p := spec.Process; p != nil {
		out.Args, out.Env = slices.Clone(p.Args), slices.Clone(p.Env)
		out.User = &api.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: slices.Clone(p.User.AdditionalGids)}
		for _, r := range p.Rlimits {
			out.Rlimits = append(out.Rlimits, &api.POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft})
		}
		out.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
		out.Linux.IoPriority = api.FromOCILinuxIOPriority(p.IOPriority)
		if p.Scheduler != nil {
			out.Linux.Scheduler = api.FromOCILinuxScheduler(p.Scheduler)
		}
	}
	if l := spec.Linux; l != nil {
		describeLinux(out.Linux, l)
	}
	return out
}

func describeLinux(out *api.LinuxContainer, l *specs.Linux) {
	out.Namespaces = api.FromOCILinuxNamespaces(l.Namespaces)
	out.Devices = api.FromOCILinuxDevices(l.Devices)
	out.Resources = api.FromOCILinuxResources(l.Resources, nil)
	out.CgroupsPath = l.CgroupsPath
	out.Sysctl = maps.Clone(l.Sysctl)
	out.NetDevices = api.FromOCILinuxNetDevices(l.NetDevices)
	if l.Seccomp != nil {
		out.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
	}
	if r := l.IntelRdt; r != nil {
		out.Rdt = &api.LinuxRdt{
			ClosId: api.String(r.ClosID), Schemata: api.RepeatedString(r.Schemata), EnableMonitoring: api.Bool(r.EnableMonitoring),
		}
	}
}

// annotations are those of the request, and those that plugins have given the configuration.
func annotations(c pod.Container, spec *specs.Spec) map[string]string {
	out := make(map[string]string, len(c.Config.Annotations)+len(spec.Annotations))
	maps.Copy(out, spec.Annotations)
	maps.Copy(out, c.Config.Annotations)
	return out
}

func imageOf(c pod.Container) *api.Image {
	name := c.Config.UserSpecifiedImage
	if name == "" {
		name = c.Config.Image
	}
	_, digest, _ := strings.Cut(c.ImageRef, "@")
	return &api.Image{Name: name, Digest: digest, ConfigDigest: c.ImageID}
}

var profiles = map[pod.ProfileKind]api.SecurityProfile_ProfileType{
	pod.ProfileDefault:    api.SecurityProfile_RUNTIME_DEFAULT,
	pod.ProfileUnconfined: api.SecurityProfile_UNCONFINED,
	pod.ProfileLocalhost:  api.SecurityProfile_LOCALHOST,
}

func profileOf(c pod.ContainerConfig) *api.SecurityProfile {
	kind, ok := profiles[c.Security.Seccomp.Kind]
	if !ok {
		return nil
	}
	return &api.SecurityProfile{ProfileType: kind, LocalhostRef: c.Security.Seccomp.Ref}
}

// resourcesOut leaves out what is zero, as the request did.
func resourcesOut(r *pod.Resources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	out := &api.LinuxResources{
		Cpu:     &api.LinuxCPU{Cpus: r.CpusetCPUs, Mems: r.CpusetMems},
		Memory:  &api.LinuxMemory{},
		Unified: maps.Clone(r.Unified),
	}
	if r.CPUShares != 0 {
		out.Cpu.Shares = api.UInt64(uint64(r.CPUShares))
	}
	if r.CPUQuota != 0 {
		out.Cpu.Quota = api.Int64(r.CPUQuota)
	}
	if r.CPUPeriod != 0 {
		out.Cpu.Period = api.UInt64(uint64(r.CPUPeriod))
	}
	if r.MemoryLimit != 0 {
		out.Memory.Limit = api.Int64(r.MemoryLimit)
	}
	if r.MemorySwap != 0 {
		out.Memory.Swap = api.Int64(r.MemorySwap)
	}
	for _, size := range slices.Sorted(maps.Keys(r.HugepageCaps)) {
		out.HugepageLimits = append(out.HugepageLimits, &api.HugepageLimit{PageSize: size, Limit: r.HugepageCaps[size]})
	}
	return out
}

// changeIn reads an update. What cannot be changed in a container that is there is ErrNotImplemented, never left out.
func changeIn(r *api.LinuxResources) (pod.Resources, error) {
	cpu, memory := r.GetCpu(), r.GetMemory()
	var foreign []string
	for name, set := range map[string]bool{
		"memory.reservation": memory.GetReservation().GetValue() != 0, "memory.kernel": memory.GetKernel().GetValue() != 0,
		"memory.kernel_tcp": memory.GetKernelTcp().GetValue() != 0, "memory.swappiness": memory.GetSwappiness() != nil,
		"memory.disable_oom_killer": memory.GetDisableOomKiller().GetValue(),
		"cpu.realtime_runtime":      cpu.GetRealtimeRuntime().GetValue() != 0, "cpu.realtime_period": cpu.GetRealtimePeriod().GetValue() != 0,
		"blockio_class": r.GetBlockioClass() != nil, "rdt_class": r.GetRdtClass() != nil,
		"devices": len(r.GetDevices()) > 0, "pids": r.GetPids() != nil,
	} {
		if set {
			foreign = append(foreign, name)
		}
	}
	if len(foreign) > 0 {
		slices.Sort(foreign)
		return pod.Resources{}, fmt.Errorf("%s: cannot be changed once a container is there: %w", strings.Join(foreign, ", "), errdefs.ErrNotImplemented)
	}
	if cpu.GetShares().GetValue() > math.MaxInt64 || cpu.GetPeriod().GetValue() > math.MaxInt64 {
		return pod.Resources{}, fmt.Errorf("cpu.shares %d, cpu.period %d: out of range: %w",
			cpu.GetShares().GetValue(), cpu.GetPeriod().GetValue(), errdefs.ErrInvalidArgument)
	}
	out := pod.Resources{
		CPUShares: int64(cpu.GetShares().GetValue()), CPUQuota: cpu.GetQuota().GetValue(), CPUPeriod: int64(cpu.GetPeriod().GetValue()),
		CpusetCPUs: cpu.GetCpus(), CpusetMems: cpu.GetMems(),
		MemoryLimit: memory.GetLimit().GetValue(), MemorySwap: memory.GetSwap().GetValue(),
	}
	if u := r.GetUnified(); len(u) > 0 {
		out.Unified = maps.Clone(u)
	}
	for _, h := range r.GetHugepageLimits() {
		if out.HugepageCaps == nil {
			out.HugepageCaps = make(map[string]uint64)
		}
		out.HugepageCaps[h.GetPageSize()] = h.GetLimit()
	}
	return out, nil
}
