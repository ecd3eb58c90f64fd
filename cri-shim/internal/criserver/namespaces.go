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
	usernsIn(f, field+".userns_options", o.GetUsernsOptions())
	return n
}

func usernsIn(f *faults, field string, u *runtime.UserNamespace) {
	if u == nil {
		return
	}
	switch u.GetMode() {
	case runtime.NamespaceMode_NODE:
		if n := len(u.GetUids()) + len(u.GetGids()); n > 0 {
			f.bad(field, fmt.Sprintf("NODE with %d mappings", n), "no mappings with NODE")
		}
	case runtime.NamespaceMode_POD:
		f.lacks(field + ".mode POD")
	default:
		f.bad(field+".mode", u.GetMode(), "POD or NODE")
	}
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
	return &runtime.NamespaceOption{
		Network: modeOut[n.Network], Pid: modeOut[n.PID], Ipc: modeOut[n.IPC], TargetId: string(n.Target),
	}
}
