package criserver

import (
	"fmt"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// The zero value of the CRI is POD for all three.
var modeIn = map[runtime.NamespaceMode]pod.NamespaceMode{
	runtime.NamespaceMode_POD:       pod.ModePod,
	runtime.NamespaceMode_CONTAINER: pod.ModeContainer,
	runtime.NamespaceMode_NODE:      pod.ModeNode,
	runtime.NamespaceMode_TARGET:    pod.ModeTarget,
}

func sandboxNamespacesIn(f *faults, o *runtime.NamespaceOption) pod.Namespaces {
	const field = "config.linux.security_context.namespace_options"
	n := namespacesIn(f, field, o)
	if n.PID == pod.ModeTarget {
		f.bad(field+".pid", "TARGET", "POD, CONTAINER or NODE: only a container can join another one")
	}
	return n
}

// containerNamespacesIn returns the zero value when nothing is asked: insideIn then takes the sandbox's.
func containerNamespacesIn(f *faults, o *runtime.NamespaceOption) pod.Namespaces {
	if o == nil {
		return pod.Namespaces{}
	}
	const field = "config.linux.security_context.namespace_options"
	n := namespacesIn(f, field, o)
	if n.PID == pod.ModeTarget && !plausible(o.GetTargetId()) {
		f.bad(field+".target_id", o.GetTargetId(), "the id of a running container of the same pod")
	}
	return n
}

func namespacesIn(f *faults, field string, o *runtime.NamespaceOption) pod.Namespaces {
	n := pod.Namespaces{Network: modeIn[o.GetNetwork()], PID: modeIn[o.GetPid()], IPC: modeIn[o.GetIpc()]}
	if n.Network != pod.ModePod && n.Network != pod.ModeNode {
		f.bad(field+".network", o.GetNetwork(), "POD or NODE")
	}
	if n.PID == "" {
		f.bad(field+".pid", o.GetPid(), "POD, CONTAINER, NODE or TARGET")
	}
	if n.IPC != pod.ModePod && n.IPC != pod.ModeNode {
		f.bad(field+".ipc", o.GetIpc(), "POD or NODE")
	}
	if n.PID == pod.ModeTarget {
		n.Target = pod.ID(o.GetTargetId())
	}
	n.User = usernsIn(f, field+".userns_options", o.GetUsernsOptions())
	if n.User != nil && (n.PID == pod.ModeNode || n.IPC == pod.ModeNode) {
		f.bad(field+".userns_options.mode", "POD", "neither pid nor ipc to be NODE with it: the pod's root may not mount their file systems")
	}
	return n
}

// usernsIn returns nil for the host's user namespace.
func usernsIn(f *faults, field string, u *runtime.UserNamespace) *pod.UserNamespace {
	if u == nil {
		return nil
	}
	switch u.GetMode() {
	case runtime.NamespaceMode_NODE:
		if n := len(u.GetUids()) + len(u.GetGids()); n > 0 {
			f.bad(field, fmt.Sprintf("NODE with %d mappings", n), "no mappings with NODE")
		}
		return nil
	case runtime.NamespaceMode_POD:
	default:
		f.bad(field+".mode", u.GetMode(), "POD or NODE")
		return nil
	}
	if len(u.GetUids()) != 1 || len(u.GetGids()) != 1 {
		f.bad(field, fmt.Sprintf("%d uids and %d gids", len(u.GetUids()), len(u.GetGids())), "one mapping of each")
		return nil
	}
	out := &pod.UserNamespace{UID: mappingIn(f, field+".uids[0]", u.GetUids()[0]), GID: mappingIn(f, field+".gids[0]", u.GetGids()[0])}
	for kind, m := range map[string]pod.IDMapping{"uids": out.UID, "gids": out.GID} {
		if m.ContainerID != 0 {
			f.bad(field+"."+kind+"[0].container_id", m.ContainerID, "0: the pod's root must be mapped")
		}
		if m.HostID == 0 {
			f.bad(field+"."+kind+"[0].host_id", 0, "another id than 0: the pod's root must not be the host's")
		}
	}
	if out.UID.Length != out.GID.Length {
		f.bad(field, fmt.Sprintf("%d uids and %d gids", out.UID.Length, out.GID.Length), "as many of one as of the other")
	}
	return out
}

func mappingIn(f *faults, field string, m *runtime.IDMapping) pod.IDMapping {
	const most = 1<<32 - 1 // (uid_t)-1 is no id
	for _, first := range []uint32{m.GetContainerId(), m.GetHostId()} {
		if m.GetLength() == 0 || uint64(first)+uint64(m.GetLength()) > most {
			f.bad(field, fmt.Sprintf("%d %d %d", m.GetContainerId(), m.GetHostId(), m.GetLength()), "a range of at least one id, within 0…4294967294")
			break
		}
	}
	return pod.IDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Length: m.GetLength()}
}

func mappingsIn(f *faults, field string, ms []*runtime.IDMapping) []pod.IDMapping {
	var out []pod.IDMapping
	for i, m := range ms {
		out = append(out, mappingIn(f, fmt.Sprintf("%s[%d]", field, i), m))
	}
	return out
}

func mappingsOut(ms []pod.IDMapping) []*runtime.IDMapping {
	var out []*runtime.IDMapping
	for _, m := range ms {
		out = append(out, &runtime.IDMapping{ContainerId: m.ContainerID, HostId: m.HostID, Length: m.Length})
	}
	return out
}

var modeOut = func() map[pod.NamespaceMode]runtime.NamespaceMode {
	out := make(map[pod.NamespaceMode]runtime.NamespaceMode, len(modeIn))
	for k, v := range modeIn {
		out[v] = k
	}
	return out
}()

// namespacesOut returns what was asked: the kubelet makes a pod anew when it finds another value.
func namespacesOut(n pod.Namespaces) *runtime.NamespaceOption {
	out := &runtime.NamespaceOption{
		Network: modeOut[n.Network], Pid: modeOut[n.PID], Ipc: modeOut[n.IPC], TargetId: string(n.Target),
	}
	if u := n.User; u != nil {
		out.UsernsOptions = &runtime.UserNamespace{
			Mode: runtime.NamespaceMode_POD,
			Uids: mappingsOut([]pod.IDMapping{u.UID}), Gids: mappingsOut([]pod.IDMapping{u.GID}),
		}
	}
	return out
}
