package bundle

import (
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func volumes(vs ...pod.Mount) func(*Input) {
	return func(in *Input) {
		for _, v := range vs {
			in.Volumes = append(in.Volumes, Volume{Mount: v, Source: v.HostPath})
		}
	}
}

func find(t *testing.T, s *specs.Spec, dest string) specs.Mount {
	t.Helper()
	var found []specs.Mount
	for _, m := range s.Mounts {
		if m.Destination == dest {
			found = append(found, m)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d mounts at %s", len(found), dest)
	}
	return found[0]
}

func TestMountOptions(t *testing.T) {
	for name, c := range map[string]struct {
		m      pod.Mount
		want   []string
		root   string // its propagation
		badMsg bool
	}{
		"plain":               {m: pod.Mount{}, want: []string{"rbind", "rprivate", "rw"}},
		"read-only":           {m: pod.Mount{Readonly: true}, want: []string{"rbind", "rprivate", "ro"}},
		"recursive":           {m: pod.Mount{Readonly: true, RecursiveReadonly: true}, want: []string{"rbind", "rprivate", "rro"}},
		"slave":               {m: pod.Mount{Propagation: pod.PropagationSlave}, want: []string{"rbind", "rslave", "rw"}, root: "rslave"},
		"shared":              {m: pod.Mount{Propagation: pod.PropagationShared}, want: []string{"rbind", "rshared", "rw"}, root: "rshared"},
		"options":             {m: pod.Mount{Options: []string{"noexec", "nodev"}}, want: []string{"rbind", "rprivate", "rw", "noexec", "nodev"}},
		"recursive, writable": {m: pod.Mount{RecursiveReadonly: true}, badMsg: true},
		"recursive, shared":   {m: pod.Mount{Readonly: true, RecursiveReadonly: true, Propagation: pod.PropagationShared}, badMsg: true},
	} {
		t.Run(name, func(t *testing.T) {
			c.m.ContainerPath, c.m.HostPath = "/v", "/host/v"
			in := input()
			volumes(c.m)(&in)
			s, err := Spec(in)
			if c.badMsg {
				if !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := find(t, s, "/v").Options; !slices.Equal(got, c.want) || s.Linux.RootfsPropagation != c.root {
				t.Errorf("got %v and %q", got, s.Linux.RootfsPropagation)
			}
		})
	}
}

// TestMountsOfTheRequestWin: a kubelet mounts its own /etc/hosts and /dev/shm; and what is inside is mounted after
// what is around it, whatever the order of the request.
func TestMountsOfTheRequestWin(t *testing.T) {
	s := spec(t, volumes(
		pod.Mount{ContainerPath: "/data/a/b", HostPath: "/2"}, pod.Mount{ContainerPath: "/data", HostPath: "/1"},
		pod.Mount{ContainerPath: "/etc/hosts/", HostPath: "/hosts"}, pod.Mount{ContainerPath: "/dev/shm", HostPath: "/shm"},
	))
	if find(t, s, "/etc/hosts").Source != "/hosts" || find(t, s, "/dev/shm").Source != "/shm" {
		t.Error("a default mount stands before one of the request")
	}
	at := func(dest string) int {
		return slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == dest })
	}
	if at("/data") > at("/data/a/b") || at("/dev") > at("/dev/shm") {
		t.Errorf("order: %v", s.Mounts)
	}
	for _, dest := range []string{"/", "relative"} {
		in := input()
		volumes(pod.Mount{ContainerPath: dest, HostPath: "/x"})(&in)
		if _, err := Spec(in); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("mount at %q: %v", dest, err)
		}
	}
}

func TestMappedMount(t *testing.T) {
	s := spec(t, volumes(pod.Mount{
		ContainerPath: "/v", HostPath: "/v", UIDs: []pod.IDMapping{{HostID: 1000, Length: 9}}, GIDs: []pod.IDMapping{{ContainerID: 1, HostID: 2000, Length: 8}},
	}))
	m := find(t, s, "/v")
	if !slices.Equal(m.UIDMappings, []specs.LinuxIDMapping{{HostID: 1000, Size: 9}}) || !slices.Equal(m.GIDMappings, []specs.LinuxIDMapping{{ContainerID: 1, HostID: 2000, Size: 8}}) {
		t.Errorf("got %v and %v", m.UIDMappings, m.GIDMappings)
	}
}

func TestSystemMountsAreWritableOnlyForThePrivileged(t *testing.T) {
	for _, privileged := range []bool{false, true} {
		s := spec(t, func(in *Input) { in.Container.Config.Privileged = privileged })
		for _, dest := range []string{"/sys", "/sys/fs/cgroup"} {
			if got := slices.Contains(find(t, s, dest).Options, "rw"); got != privileged {
				t.Errorf("privileged %t: %s is writable: %t", privileged, dest, got)
			}
		}
	}
	s := spec(t, func(in *Input) { in.Container.Config.Security.ReadonlyRootfs = true })
	for _, dest := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
		if !slices.Contains(find(t, s, dest).Options, "ro") {
			t.Errorf("%s is writable on a read-only root", dest)
		}
	}
}
