package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fits compares what a process had with what is asked for it now. CRIU gives it back its credentials, its filters and
// its mounts as they were: a request for others cannot be met. Values are not shown: they may be secrets.
func fits(was, now *specs.Spec) error {
	if was.Process == nil || was.Root == nil || was.Linux == nil {
		return fmt.Errorf("the checkpoint's specification has no process, root or linux: %w", errdefs.ErrInvalidArgument)
	}
	a, b := was.Process, now.Process
	var differ []string
	for _, f := range []struct {
		name     string
		was, now any
	}{
		{"args", a.Args, b.Args},
		{"working directory", a.Cwd, b.Cwd},
		{"user", a.User, b.User},
		{"tty", a.Terminal, b.Terminal},
		{"capabilities", a.Capabilities, b.Capabilities},
		{"no_new_privs", a.NoNewPrivileges, b.NoNewPrivileges},
		{"apparmor", a.ApparmorProfile, b.ApparmorProfile},
		{"selinux", a.SelinuxLabel, b.SelinuxLabel},
		{"readonly_rootfs", was.Root.Readonly, now.Root.Readonly},
		{"mounts", mountsOf(was), mountsOf(now)},
		{"devices", devicesOf(was), devicesOf(now)},
		{"namespaces", namespacesOf(was), namespacesOf(now)},
		{"masked_paths", was.Linux.MaskedPaths, now.Linux.MaskedPaths},
		{"readonly_paths", was.Linux.ReadonlyPaths, now.Linux.ReadonlyPaths},
		{"seccomp", was.Linux.Seccomp, now.Linux.Seccomp},
	} {
		if !same(f.was, f.now) {
			differ = append(differ, f.name)
		}
	}
	differ = append(differ, environment(a.Env, b.Env)...)
	if len(differ) == 0 {
		return nil
	}
	return fmt.Errorf("the request differs from the checkpoint in %s: %w", strings.Join(differ, ", "), errdefs.ErrInvalidArgument)
}

// same compares as JSON, where nil and empty are one.
func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	null := func(j []byte) bool { return string(j) == "null" || string(j) == "[]" }
	return errX == nil && errY == nil && (bytes.Equal(x, y) || null(x) && null(y))
}

// environment names the variables that differ; their order means nothing.
func environment(was, now []string) []string {
	var out []string
	note := func(these, those []string) {
		for _, kv := range these {
			key, _, _ := strings.Cut(kv, "=")
			if name := fmt.Sprintf("environment variable %.100q", key); !slices.Contains(those, kv) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	note(was, now)
	note(now, was)
	return out
}

// mountsOf leaves out the sources: they are of the new pod.
func mountsOf(s *specs.Spec) []specs.Mount {
	out := slices.Clone(s.Mounts)
	for i := range out {
		if out[i].Type == "bind" {
			out[i].Source = ""
		}
	}
	return out
}

// devicesOf are the paths: numbers are of the host.
func devicesOf(s *specs.Spec) []string {
	var out []string
	for _, d := range s.Linux.Devices {
		out = append(out, d.Path)
	}
	slices.Sort(out)
	return out
}

// namespacesOf says of each whether it is the container's own or the pod's.
func namespacesOf(s *specs.Spec) []string {
	var out []string
	for _, n := range s.Linux.Namespaces {
		out = append(out, fmt.Sprintf("%s %t", n.Type, n.Path != ""))
	}
	return out
}
