package bundle

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// allows says whether a filter lets a system call through whose first argument is arg.
func allows(p *specs.LinuxSeccomp, name string, arg uint64) bool {
	for _, rule := range p.Syscalls {
		if rule.Action != specs.ActAllow || !slices.Contains(rule.Names, name) {
			continue
		}
		if !slices.ContainsFunc(rule.Args, func(a specs.LinuxSeccompArg) bool { return a.Index == 0 && !holds(a, arg) }) {
			return true
		}
	}
	return p.DefaultAction == specs.ActAllow
}

func holds(a specs.LinuxSeccompArg, v uint64) bool {
	switch a.Op {
	case specs.OpEqualTo:
		return v == a.Value
	case specs.OpNotEqual:
		return v != a.Value
	case specs.OpLessThan:
		return v < a.Value
	case specs.OpLessEqual:
		return v <= a.Value
	case specs.OpGreaterThan:
		return v > a.Value
	case specs.OpGreaterEqual:
		return v >= a.Value
	case specs.OpMaskedEqual:
		return v&a.Value == a.ValueTwo
	}
	return true
}

// TestDefaultFilterBlocks: the default filter keeps from a container what exploits of the kernel have gone through,
// with the capabilities that one has by default and without any.
func TestDefaultFilterBlocks(t *testing.T) {
	for name, drop := range map[string][]string{"default": nil, "none": {"ALL"}} {
		p := spec(t, func(in *Input) {
			in.Container.Config.Security.Seccomp.Kind, in.Container.Config.Security.DropCapabilities = pod.ProfileDefault, drop
		}).Linux.Seccomp
		for _, call := range []string{
			"userfaultfd", "keyctl", "add_key", "request_key", "io_uring_setup", "io_uring_enter", "bpf", "perf_event_open", "mount", "move_mount",
			"open_tree", "fsopen", "setns", "unshare", "pivot_root", "kexec_load", "init_module", "finit_module", "open_by_handle_at",
		} {
			if allows(p, call, 0) {
				t.Errorf("capabilities %s: %s is let through", name, call)
			}
		}
		for domain, want := range map[uint64]bool{unix.AF_UNIX: true, unix.AF_INET: true, unix.AF_INET6: true, unix.AF_NETLINK: true, unix.AF_ALG: false, unix.AF_VSOCK: false} {
			if allows(p, "socket", domain) != want {
				t.Errorf("capabilities %s: socket(%d) is let through: %t", name, domain, !want)
			}
		}
		if allows(p, "clone", unix.CLONE_NEWUSER) || !allows(p, "clone", 0) {
			t.Errorf("capabilities %s: clone makes user namespaces, or nothing", name)
		}
	}
}

// TestControlGroupsAreKept: no unprivileged container has a cgroup mount that it can write, and so no release_agent
// (CVE-2022-0492); the cgroup of one with a user namespace is below the pod's (CVE-2025-47291).
func TestControlGroupsAreKept(t *testing.T) {
	ids := pod.IDMapping{HostID: 1000, Length: 100}
	for name, change := range map[string]func(*Input){
		"plain":            nil,
		"mapped":           func(in *Input) { in.Sandbox.Config.Namespaces.User = &pod.UserNamespace{UID: ids, GID: ids} },
		"all capabilities": func(in *Input) { in.Container.Config.Security.AddCapabilities = []string{"ALL"} },
		"of the node's names": func(in *Input) {
			in.Sandbox.Config.Namespaces.PID, in.Container.Config.Namespaces.PID = pod.ModeNode, pod.ModeNode
		},
		"without cgroup names": func(in *Input) { in.Facts.CgroupV2 = false },
	} {
		s := spec(t, func(in *Input) {
			in.Sandbox.Config.CgroupParent = "/kubepods/pod1"
			if change != nil {
				change(in)
			}
		})
		if s.Linux.CgroupsPath != "/kubepods/pod1/c" {
			t.Errorf("%s: the cgroup is %s", name, s.Linux.CgroupsPath)
		}
		for _, m := range s.Mounts {
			if (m.Type == "cgroup" || m.Type == "cgroup2" || m.Destination == "/sys") && !slices.Contains(m.Options, "ro") {
				t.Errorf("%s: %+v", name, m)
			}
		}
		own := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
		if want := name != "without cgroup names"; own != want {
			t.Errorf("%s: a cgroup namespace of its own: %t", name, own)
		}
	}
}
