package bundle

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// defaultCaps is what a container has that asks for nothing: the set that Docker made the custom.
var defaultCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilities applies the request to the default set: "ALL" first, then single names; what is dropped by name
// is dropped. ours is our bounding set, and the meaning of ALL: more cannot be given. The inheritable set stays
// empty (CVE-2022-24769), but for what is asked for as ambient.
func capabilities(c pod.ContainerConfig, ours []string) (*specs.LinuxCapabilities, error) {
	if c.Privileged {
		return &specs.LinuxCapabilities{Bounding: ours, Effective: ours, Permitted: ours}, nil
	}
	s := c.Security
	add, err := capNames("add_capabilities", s.AddCapabilities)
	if err != nil {
		return nil, err
	}
	drop, err := capNames("drop_capabilities", s.DropCapabilities)
	if err != nil {
		return nil, err
	}
	ambient, err := capNames("add_ambient_capabilities", s.AmbientCaps)
	if err != nil {
		return nil, err
	}
	if slices.Contains(ambient, "ALL") {
		ambient = slices.Clone(ours)
	}
	ambient = slices.DeleteFunc(ambient, func(name string) bool { return !slices.Contains(ours, name) })
	have := slices.Clone(defaultCaps)
	if slices.Contains(drop, "ALL") {
		have = nil
	}
	if slices.Contains(add, "ALL") {
		have = slices.Clone(ours)
	}
	for _, name := range append(slices.Clone(add), ambient...) {
		if name != "ALL" && !slices.Contains(have, name) {
			have = append(have, name)
		}
	}
	have = slices.DeleteFunc(have, func(name string) bool {
		return (slices.Contains(drop, name) && !slices.Contains(ambient, name)) || !slices.Contains(ours, name)
	})
	slices.Sort(have)
	return &specs.LinuxCapabilities{Bounding: have, Effective: have, Permitted: have, Inheritable: ambient, Ambient: ambient}, nil
}

// capNames brings names into the form CAP_…; ALL stays.
func capNames(field string, names []string) ([]string, error) {
	var out []string
	for _, raw := range names {
		name := strings.ToUpper(raw)
		if name == "ALL" {
			out = append(out, name)
			continue
		}
		name = strings.TrimPrefix(name, "CAP_")
		known := slices.ContainsFunc(capability.ListKnown(), func(c capability.Cap) bool { return strings.ToUpper(c.String()) == name })
		if !known {
			return nil, fmt.Errorf("%s: %.60q is not the name of a capability: %w", field, raw, errdefs.ErrInvalidArgument)
		}
		out = append(out, "CAP_"+name)
	}
	return out, nil
}
