package nri

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func host() Host {
	return Host{Controllers: map[string]bool{"hugetlb": true}, CgroupV2: true, InjectCDI: func(s *specs.Spec, names []string) error {
		if names[0] == "v.com/c=unknown" {
			return errdefs.ErrInvalidArgument
		}
		s.Process.Env = append(s.Process.Env, "CDI="+strings.Join(names, ","))
		return nil
	}}
}

func TestAdjust(t *testing.T) {
	a := &api.ContainerAdjustment{}
	a.AddAnnotation("k", "v")
	a.AddEnv("A", "2")
	a.AddEnv("B", "3")
	a.SetArgs([]string{"sh", "-c", "true"})
	a.AddMount(&api.Mount{Destination: "/data", Source: "/etc", Type: "bind", Options: []string{"rbind", "ro"}})
	a.AddMount(&api.Mount{Destination: "/a/b", Source: "/etc", Type: "bind", Options: []string{"rbind"}})
	a.RemoveMount("/proc")
	a.AddHooks(&api.Hooks{
		Prestart: []*api.Hook{{Path: "/1"}}, CreateRuntime: []*api.Hook{{Path: "/2"}}, CreateContainer: []*api.Hook{{Path: "/3"}},
		StartContainer: []*api.Hook{{Path: "/4"}}, Poststart: []*api.Hook{{Path: "/5"}}, Poststop: []*api.Hook{{Path: "/6"}},
	})
	a.AddDevice(&api.LinuxDevice{Path: "/dev/x", Type: "c", Major: 1, Minor: 3})
	a.AddCDIDevice(&api.CDIDevice{Name: "v.com/c=d"})
	a.AddRlimit("RLIMIT_NOFILE", 20, 10)
	a.AddRlimit("RLIMIT_CORE", 0, 0)
	a.SetLinuxCgroupsPath("/other/c")
	n := 500
	a.SetLinuxOomScoreAdj(&n)
	a.SetLinuxCPUShares(512)
	a.SetLinuxCPUQuota(1000)
	a.SetLinuxCPUPeriod(2000)
	a.SetLinuxCPUSetCPUs("0-1")
	a.SetLinuxCPUSetMems("0")
	a.SetLinuxCPURealtimePeriod(7)
	a.SetLinuxCPURealtimeRuntime(6)
	a.SetLinuxMemoryLimit(1 << 20)
	a.SetLinuxPidLimits(99)
	a.AddLinuxHugepageLimit("2MB", 4)
	a.AddLinuxUnified("memory.high", "5")
	a.SetLinuxSysctl("net.a", "1")
	a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_BE, Priority: 3})
	a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW"})

	s := spec()
	if err := host().adjust(s, a); err != nil {
		t.Fatal(err)
	}
	r := s.Linux.Resources
	for name, ok := range map[string]bool{
		"annotation":  s.Annotations["k"] == "v",
		"env":         slices.Equal(s.Process.Env, []string{"A=2", "B=3", "CDI=v.com/c=d"}),
		"args":        slices.Equal(s.Process.Args, []string{"sh", "-c", "true"}),
		"mounts":      len(s.Mounts) == 2 && s.Mounts[0].Destination == "/data" && s.Mounts[1].Destination == "/a/b",
		"hooks":       hooks(s) == "/1/2/3/4/5/6",
		"device":      len(s.Linux.Devices) == 1 && len(r.Devices) == 1 && r.Devices[0].Allow && *r.Devices[0].Minor == 3,
		"rlimits":     len(s.Process.Rlimits) == 2 && s.Process.Rlimits[0] == specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Hard: 20, Soft: 10},
		"cgroup":      s.Linux.CgroupsPath == "/other/c",
		"oom":         *s.Process.OOMScoreAdj == 500,
		"cpu":         *r.CPU.Shares == 512 && *r.CPU.Quota == 1000 && *r.CPU.Period == 2000 && r.CPU.Cpus == "0-1" && r.CPU.Mems == "0",
		"realtime":    *r.CPU.RealtimePeriod == 7 && *r.CPU.RealtimeRuntime == 6,
		"memory":      *r.Memory.Limit == 1<<20 && *r.Memory.Swap == 1<<20,
		"pids":        *r.Pids.Limit == 99,
		"hugepages":   len(r.HugepageLimits) == 1 && r.HugepageLimits[0].Limit == 4,
		"unified":     r.Unified["memory.high"] == "5",
		"sysctl":      s.Linux.Sysctl["net.a"] == "1",
		"io priority": s.Process.IOPriority != nil && s.Process.IOPriority.Priority == 3,
		"seccomp":     s.Linux.Seccomp != nil && s.Linux.Seccomp.DefaultAction == specs.ActAllow,
	} {
		if !ok {
			t.Errorf("%s: %+v, process %+v, linux %+v", name, s, s.Process, s.Linux)
		}
	}
}

func hooks(s *specs.Spec) string {
	var out string
	h := s.Hooks
	for _, all := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} { //nolint:staticcheck // deprecated, still in the interface
		for _, one := range all {
			out += one.Path
		}
	}
	return out
}

func TestAdjustNamespaces(t *testing.T) {
	for name, c := range map[string]struct {
		n    *api.LinuxNamespace
		want []specs.LinuxNamespace
		bad  bool
	}{
		"new":      {&api.LinuxNamespace{Type: "time"}, []specs.LinuxNamespace{{Type: "pid"}, {Type: "time"}}, false},
		"replaced": {&api.LinuxNamespace{Type: "pid", Path: "/x"}, []specs.LinuxNamespace{{Type: "pid", Path: "/x"}}, false},
		"removed":  {&api.LinuxNamespace{Type: "-pid"}, nil, false},
		"unknown":  {&api.LinuxNamespace{Type: "nonsense"}, nil, true},
	} {
		s := spec()
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "pid"}}
		err := host().adjust(s, &api.ContainerAdjustment{Linux: &api.LinuxContainerAdjustment{Namespaces: []*api.LinuxNamespace{c.n}}})
		if c.bad != errors.Is(err, errdefs.ErrInvalidArgument) || !c.bad && !slices.Equal(s.Linux.Namespaces, c.want) && len(s.Linux.Namespaces)+len(c.want) > 0 {
			t.Errorf("%s: got %v, %v", name, s.Linux.Namespaces, err)
		}
	}
}

// TestHostsThatCannot: what is asked for and cannot be is an error that names it, but for hugepages.
func TestHostsThatCannot(t *testing.T) {
	for name, c := range map[string]struct {
		host Host
		a    func(*api.ContainerAdjustment)
		want string // "": no error
	}{
		"hugepages":           {Host{CgroupV2: true}, func(a *api.ContainerAdjustment) { a.AddLinuxHugepageLimit("2MB", 4) }, ""},
		"unified":             {Host{}, func(a *api.ContainerAdjustment) { a.AddLinuxUnified("memory.high", "5") }, "unified"},
		"CDI":                 {host(), func(a *api.ContainerAdjustment) { a.AddCDIDevice(&api.CDIDevice{Name: "v.com/c=unknown"}) }, "invalid argument"},
		"no CDI":              {Host{}, func(a *api.ContainerAdjustment) { a.AddCDIDevice(&api.CDIDevice{Name: "v.com/c=d"}) }, "v.com/c=d"},
		"block I/O":           {host(), func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("gold") }, "gold"},
		"cgroup out of place": {host(), func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/a/../../b") }, "cgroups_path"},
		"relative cgroup":     {host(), func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("a") }, "cgroups_path"},
		"path with systemd":   {Host{Systemd: true}, func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/a") }, "cgroups_path"},
		"slice with systemd":  {Host{Systemd: true}, func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("a.slice:p:n") }, ""},
		"propagation of nobody": {host(), func(a *api.ContainerAdjustment) {
			a.AddMount(&api.Mount{Destination: "/x", Source: "/proc/self/nothing", Type: "bind", Options: []string{"rshared"}})
		}, "mount"},
	} {
		a := &api.ContainerAdjustment{}
		c.a(a)
		s := spec()
		err := c.host.adjust(s, a)
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
		if name == "hugepages" && len(s.Linux.Resources.HugepageLimits) != 0 {
			t.Errorf("limits without a controller: %v", s.Linux.Resources.HugepageLimits)
		}
	}
}
