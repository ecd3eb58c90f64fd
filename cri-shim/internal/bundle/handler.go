package bundle

import (
	"path"
	"slices"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Handler is what the node's owner has set for the containers of one runtime handler. The zero value is for those that ask for none.
type Handler struct {
	// NoHostDevices gives privileged containers the devices that they ask for, not all of the host's. With AllDevices
	// they may still use any for which they make a node.
	NoHostDevices, AllDevices bool
	// WritableCgroup lets containers that are not privileged make cgroups below their own. Cgroup v2 only.
	WritableCgroup bool
	// PodAnnotations and ContainerAnnotations are patterns (path.Match) of annotations that the OCI runtime is told.
	PodAnnotations, ContainerAnnotations []string
}

// annotations are those that the OCI runtime is told; a container's own come before its pod's.
func (h Handler) annotations(s pod.Sandbox, c pod.Container) map[string]string {
	out := map[string]string{}
	for _, from := range []struct {
		patterns []string
		all      map[string]string
	}{{h.PodAnnotations, s.Config.Annotations}, {h.ContainerAnnotations, c.Config.Annotations}} {
		for key, value := range from.all {
			if slices.ContainsFunc(from.patterns, func(p string) bool { ok, _ := path.Match(p, key); return ok }) {
				out[key] = value
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
