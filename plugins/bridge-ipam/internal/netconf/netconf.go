// Package netconf turns the bytes of a CNI network configuration into a validated value that nobody
// changes afterwards. It is pure: no file, no kernel, no environment. It has no crash story.
//
// The keys are those of the reference plugins bridge and host-local. Unknown keys are ignored. A key that
// is known but not built yet is refused (code 2) when its value asks for something; a value that makes no
// sense is refused (code 7) with its key; JSON that does not decode is code 6.
package netconf

import (
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/ipam"
)

// Defaults of keys that are not given.
const (
	DefaultBridge  = "cni0"
	DefaultDataDir = "/run/bridge-ipam"
)

// Identity is what every operation needs to know of a network.
type Identity struct {
	CNIVersion string
	Name       string
	Bridge     string
	DataDir    string // absolute; the network's leases are in a directory of its name below it
	Roles
}

// Config is what ADD, CHECK and STATUS work by.
type Config struct {
	Identity
	IsGateway        bool
	IsDefaultGateway bool // implies IsGateway
	ForceAddress     bool
	IPMasq           bool
	Hairpin          bool
	MTU              int              // 0: that of the default route's link
	MAC              net.HardwareAddr // nil: chosen by the plugin

	Sets       []ipam.Set // empty: no addresses at all
	Requested  []netip.Addr
	Routes     []*types.Route
	ResolvConf string // path of a file whose DNS settings go into the result
	DNS        types.DNS

	Ingress, Egress Limit // what the pod may receive and send

	HostPorts HostPorts
	Warnings  []string // keys that are accepted and change nothing

	CheckMAC, CheckAddrs bool // drop what the pod sends under another MAC or address than its own
	PromiscMode          bool // of the bridge
	PortIsolation        bool // no frames between isolated ports
	EnableDAD            bool // duplicate address detection inside the pod
	LinkDown             bool // the container's interface stays down
	LinkLocal            bool // a container with IPv4 alone has IPv6's link-local address all the same
	VLANs                VLANs

	PrevResult *types100.Result // nil when there is none
}

// Subnets lists the subnets of all ranges, each once.
func (c *Config) Subnets() []netip.Prefix {
	var out []netip.Prefix
	seen := map[netip.Prefix]bool{}
	for _, s := range c.Sets {
		for _, r := range s {
			if !seen[r.Subnet] {
				seen[r.Subnet] = true
				out = append(out, r.Subnet)
			}
		}
	}
	return out
}

// Teardown is what DEL and GC work by. It asks little of a configuration, so that one that was changed
// for the worse still lets go of what an earlier one made.
type Teardown struct {
	Identity
	// NetnsDestroyed: the runtime promises to destroy the namespace right after DEL.
	NetnsDestroyed bool
	// Valid are the attachments that GC keeps; nil when the key is missing.
	Valid []types.GCAttachment
}

// fault makes an error of the CNI code 7 (invalid configuration).
func fault(msg string) *types.Error {
	return types.NewError(types.ErrInvalidNetworkConfig, msg, "")
}
