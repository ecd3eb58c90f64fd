package bundle

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// input is a container that asks for nothing, on a host that can do all.
func input() Input {
	namespaces := pod.Namespaces{Network: pod.ModePod, PID: pod.ModeContainer, IPC: pod.ModePod}
	return Input{
		Sandbox:   pod.Sandbox{ID: "s", Config: pod.SandboxConfig{Hostname: "h", Namespaces: namespaces}},
		Container: pod.Container{ID: "c", Config: pod.ContainerConfig{Command: []string{"run"}, Namespaces: namespaces}},
		Image:     pod.Image{ID: "sha256:i", Config: imagespec.ImageConfig{Cmd: []string{"never"}}},
		Facts: hostinfo.Facts{
			Caps: append(slices.Clone(defaultCaps), "CAP_NET_ADMIN", "CAP_SYS_ADMIN"), CanLowerOOM: true, NofileHard: 4096,
			Controllers: map[string]bool{"hugetlb": true}, CgroupV2: true, KernelMajor: 6, KernelMinor: 18,
		},
		Layout:  paths.Layout{Root: "/root", State: "/state"},
		Cgroups: Cgroups{Parent: "/parent"},
	}
}

func spec(t *testing.T, change func(*Input)) *specs.Spec {
	t.Helper()
	in := input()
	if change != nil {
		change(&in)
	}
	s, err := Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCapabilities(t *testing.T) {
	ours := input().Facts.Caps
	without := func(all []string, drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(drop, s) })
	}
	for name, c := range map[string]struct {
		s       pod.Security
		want    []string
		ambient []string
	}{
		"default":                    {want: defaultCaps},
		"add":                        {s: pod.Security{AddCapabilities: []string{"net_admin"}}, want: append(slices.Clone(defaultCaps), "CAP_NET_ADMIN")},
		"drop":                       {s: pod.Security{DropCapabilities: []string{"CAP_NET_RAW"}}, want: without(defaultCaps, "CAP_NET_RAW")},
		"drop ALL":                   {s: pod.Security{DropCapabilities: []string{"all"}}},
		"drop ALL, then add":         {s: pod.Security{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CHOWN"}}, want: []string{"CAP_CHOWN"}},
		"add ALL is what we own":     {s: pod.Security{AddCapabilities: []string{"ALL"}}, want: ours},
		"ambient ALL is what we own": {s: pod.Security{AmbientCaps: []string{"ALL"}}, want: ours, ambient: ours},
		"ambient we do not own":      {s: pod.Security{DropCapabilities: []string{"ALL"}, AmbientCaps: []string{"SYS_BOOT", "CHOWN"}}, want: []string{"CAP_CHOWN"}, ambient: []string{"CAP_CHOWN"}},
		"add ALL, then drop":         {s: pod.Security{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"NET_RAW"}}, want: without(ours, "CAP_NET_RAW")},
		"more than we own":           {s: pod.Security{AddCapabilities: []string{"SYS_MODULE"}}, want: defaultCaps},
		"ambient": {
			s: pod.Security{DropCapabilities: []string{"ALL"}, AmbientCaps: []string{"NET_BIND_SERVICE"}}, want: []string{"CAP_NET_BIND_SERVICE"}, ambient: []string{"CAP_NET_BIND_SERVICE"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := spec(t, func(in *Input) { in.Container.Config.Security = c.s }).Process.Capabilities
			want := slices.Clone(c.want)
			slices.Sort(want)
			if !slices.Equal(got.Bounding, want) || !slices.Equal(got.Effective, want) || !slices.Equal(got.Permitted, want) {
				t.Errorf("got %v, want %v", got.Bounding, want)
			}
			// A file with inheritable capabilities would get them from the inheritable set (CVE-2022-24769).
			if !slices.Equal(got.Inheritable, c.ambient) || !slices.Equal(got.Ambient, c.ambient) {
				t.Errorf("inheritable %v, ambient %v", got.Inheritable, got.Ambient)
			}
		})
	}
	got := spec(t, func(in *Input) { in.Container.Config.Privileged = true }).Process.Capabilities
	if !slices.Equal(got.Bounding, ours) || len(got.Inheritable) != 0 {
		t.Errorf("privileged: %+v", got)
	}
}

func TestSeccomp(t *testing.T) {
	local := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	for name, c := range map[string]struct {
		kind       pod.ProfileKind
		privileged bool
		want       func(*specs.LinuxSeccomp) bool
	}{
		"none asked is none":          {pod.ProfileUnset, false, func(s *specs.LinuxSeccomp) bool { return s == nil }},
		"unconfined":                  {pod.ProfileUnconfined, false, func(s *specs.LinuxSeccomp) bool { return s == nil }},
		"default":                     {pod.ProfileDefault, false, func(s *specs.LinuxSeccomp) bool { return s != nil && s.DefaultAction == specs.ActErrno }},
		"localhost":                   {pod.ProfileLocalhost, false, func(s *specs.LinuxSeccomp) bool { return s == local }},
		"privileged has none":         {pod.ProfileDefault, true, func(s *specs.LinuxSeccomp) bool { return s == nil }},
		"privileged ignores the file": {pod.ProfileLocalhost, true, func(s *specs.LinuxSeccomp) bool { return s == nil }},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(t, func(in *Input) {
				in.Container.Config.Security.Seccomp.Kind, in.Container.Config.Privileged = c.kind, c.privileged
				in.Seccomp = local
			})
			if !c.want(s.Linux.Seccomp) {
				t.Errorf("got %+v", s.Linux.Seccomp)
			}
		})
	}
}

// TestVariables: those of the request replace the image's of the same name, and none can hold another one.
func TestVariables(t *testing.T) {
	s := spec(t, func(in *Input) {
		in.Image.Config.Env = []string{"A=image", "B=image", "nothing", "=x"}
		in.Container.Config.Env = []pod.EnvVar{{Key: "B", Value: []byte("x=y")}}
	})
	if got := s.Process.Env; !slices.Equal(got[:2], []string{"A=image", "B=x=y"}) || slices.Contains(got, "nothing") || slices.Contains(got, "=x") {
		t.Errorf("got %q", got)
	}
	for _, bad := range []pod.EnvVar{{}, {Key: "A=B"}, {Key: "A\x00"}, {Key: "A", Value: []byte{0}}} {
		in := input()
		in.Container.Config.Env = []pod.EnvVar{bad}
		if _, err := Spec(in); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", bad.Key, err)
		}
	}
}

func TestPathsThatAreHidden(t *testing.T) {
	hide := func(in *Input) {
		in.Container.Config.Security.MaskedPaths, in.Container.Config.Security.ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
	}
	if s := spec(t, hide); !slices.Equal(s.Linux.MaskedPaths, []string{"/proc/kcore"}) || !slices.Equal(s.Linux.ReadonlyPaths, []string{"/proc/sys"}) {
		t.Errorf("got %v and %v", s.Linux.MaskedPaths, s.Linux.ReadonlyPaths)
	}
	// procMount: Unmasked is an empty list, and must not become a default one.
	if s := spec(t, nil); len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) != 0 {
		t.Errorf("nothing asked: %v and %v", s.Linux.MaskedPaths, s.Linux.ReadonlyPaths)
	}
	if s := spec(t, func(in *Input) { hide(in); in.Container.Config.Privileged = true }); len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) != 0 {
		t.Errorf("privileged: %v and %v", s.Linux.MaskedPaths, s.Linux.ReadonlyPaths)
	}
}

func TestOOMScoreIsNotLoweredWithoutTheRight(t *testing.T) {
	for _, c := range []struct {
		want    int64
		can     bool
		ours, n int
	}{{-998, true, 0, -998}, {-998, false, 0, 0}, {-998, false, -500, -500}, {900, false, 0, 900}, {5000, true, 0, 1000}} {
		s := spec(t, func(in *Input) {
			in.Container.Config.Resources.OOMScoreAdj, in.Facts.CanLowerOOM, in.Facts.OOMScoreAdj = c.want, c.can, c.ours
		})
		if got := *s.Process.OOMScoreAdj; got != c.n {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

func TestUserNamespace(t *testing.T) {
	ids := pod.IDMapping{HostID: 1000, Length: 100}
	mapped := func(in *Input) { in.Sandbox.Config.Namespaces.User = &pod.UserNamespace{UID: ids, GID: ids} }
	s := spec(t, mapped)
	if !slices.Contains(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/state/ns/s/user"}) || s.Linux.UIDMappings != nil {
		t.Errorf("namespaces %v, mappings %v", s.Linux.Namespaces, s.Linux.UIDMappings)
	}
	for name, u := range map[string]User{"user": {UID: 100}, "group": {GID: 100}, "supplemental": {Groups: []uint32{7, 100}}} {
		in := input()
		mapped(&in)
		in.User = u
		if _, err := Spec(in); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "100") {
			t.Errorf("%s out of the range: %v", name, err)
		}
	}
	in := input()
	mapped(&in)
	init, err := InitSpec(in.Sandbox, in.Facts, in.Layout, in.Cgroups)
	if err != nil || init.Process.User.UID != 99 || !slices.ContainsFunc(init.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) {
		t.Errorf("the init is %+v, %v", init.Process.User, err)
	}
}

// TestUserNamespaceWithHostNetwork: the kernel lets the pod's root mount no sysfs of the host's network.
func TestUserNamespaceWithHostNetwork(t *testing.T) {
	ids := pod.IDMapping{HostID: 1000, Length: 100}
	both := spec(t, func(in *Input) {
		in.Sandbox.Config.Namespaces.User, in.Sandbox.Config.Namespaces.Network = &pod.UserNamespace{UID: ids, GID: ids}, pod.ModeNode
		in.Container.Config.Privileged, in.Sandbox.Config.Privileged = true, true
	})
	if m := find(t, both, "/sys"); m.Type != "bind" || m.Source != "/sys" || !slices.Contains(m.Options, "rro") || !slices.Contains(m.Options, "rbind") {
		t.Errorf("got %+v", m)
	}
	for _, n := range both.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace || n.Type == specs.UTSNamespace {
			t.Errorf("it has a %s namespace", n.Type)
		}
	}
	if m := find(t, spec(t, func(in *Input) { in.Sandbox.Config.Namespaces.Network = pod.ModeNode }), "/sys"); m.Type != "sysfs" {
		t.Errorf("without a user namespace: %+v", m)
	}
}

func TestPrimaryGroupIsSupplementalToo(t *testing.T) {
	s := spec(t, func(in *Input) { in.User = User{UID: 1, GID: 2, Groups: []uint32{3, 2}} })
	if got := s.Process.User.AdditionalGids; !slices.Equal(got, []uint32{2, 3}) {
		t.Errorf("got %v (CVE-2023-25173)", got)
	}
}

func TestCgroupPath(t *testing.T) {
	for _, c := range []struct {
		cg     Cgroups
		parent string
		want   string // "" is refused
	}{
		{Cgroups{Parent: "/p"}, "", "/p/c"},
		{Cgroups{Parent: "/p"}, "/kubepods/pod1", "/kubepods/pod1/c"},
		{Cgroups{Parent: "/p"}, "/../../etc", "/etc/c"},
		{Cgroups{Parent: "/p"}, "kubepods.slice", ""},
		{Cgroups{Parent: "p.slice", Systemd: true}, "", "p.slice:cri-shim:c"},
		{Cgroups{Parent: "p.slice", Systemd: true}, "/kubepods.slice/kubepods-pod1.slice", "kubepods-pod1.slice:cri-shim:c"},
		{Cgroups{Parent: "p.slice", Systemd: true}, "/kubepods/pod1", ""},
	} {
		got, err := c.cg.Path(c.parent, "c")
		if got != c.want || (c.want == "") != errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v %q: got %q, %v", c.cg, c.parent, got, err)
		}
	}
}

func TestSELinux(t *testing.T) {
	s := spec(t, func(in *Input) { in.ProcessLabel, in.MountLabel = "p", "m" })
	if s.Process.SelinuxLabel != "p" || s.Linux.MountLabel != "m" {
		t.Errorf("got %q and %q", s.Process.SelinuxLabel, s.Linux.MountLabel)
	}
	in := input()
	in.Container.Config.Security.SELinux.Type = "t"
	if _, err := Spec(in); err != nil {
		t.Errorf("on a host without SELinux: %v", err)
	}
	in.Facts.SELinux = true
	if _, err := Spec(in); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "enable_selinux") {
		t.Errorf("where it is not enabled: %v", err)
	}
}
