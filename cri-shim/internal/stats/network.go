package stats

import (
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
)

// defaultInterface is the name that runtimes give the interface of a pod's first network.
const defaultInterface = "eth0"

// Network is what the interfaces of a pod have carried, lo left out.
type Network struct {
	At      time.Time
	Default *netutil.Counters // nil when the pod has no interface
	Others  []netutil.Counters
}

// readNetwork reads the counters in a pinned namespace; nil when there is none any more.
func readNetwork(path string) (*Network, error) {
	ns, err := netutil.OpenNS(path)
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return nil, nil // a file that pins nothing: the pod was stopped
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	n := &Network{At: time.Now()}
	all, err := ns.Counters()
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		switch c.Name {
		case "lo":
		case defaultInterface:
			n.Default = &c
		default:
			n.Others = append(n.Others, c)
		}
	}
	if n.Default == nil && len(n.Others) > 0 {
		n.Default, n.Others = &n.Others[0], n.Others[1:]
	}
	return n, nil
}
