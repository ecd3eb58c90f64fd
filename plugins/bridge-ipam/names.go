package bridgeipam

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
)

// maxAlias is the longest alias of a link, in bytes (IFALIASZ less its end).
const maxAlias = 255

// bridgeAlias marks bridges that we made. A new link cannot have its alias from the start, but its MAC:
// how it begins marks a bridge whose maker was killed before it could set the alias.
const bridgeAlias = "bridge-ipam"

var bridgeMAC = net.HardwareAddr{0x0a, 0x5a}

func isOurBridge(l netutil.Link) bool {
	return l.Kind == "bridge" && (l.Alias == bridgeAlias || l.Alias == "" && bytes.HasPrefix(l.MAC, bridgeMAC))
}

// hostLink is the name of the host end of an attachment: 15 bytes, the most a link may have.
func hostLink(a lease.Attachment) string { return hostLinkOfKey(a.Key()) }

func hostLinkOfKey(key string) string { return "veth" + key[:11] }

// networkAlias is how the alias of every host end of a network starts, and of no other network.
func networkAlias(network string) string {
	sum := sha256.Sum256([]byte(network))
	return "bridge-ipam/" + hex.EncodeToString(sum[:6]) + " "
}

// hostAlias says in words whose host end a link is.
func hostAlias(network string, a lease.Attachment) string {
	s := networkAlias(network) + network + " " + a.ContainerID + " " + a.IfName
	return s[:min(len(s), maxAlias)]
}

// hostMAC is the MAC of all host ends: no frame comes from them, and a bridge keeps a list of what MACs its ports have,
// which it walks at each join. One that was made without a MAC of its own takes the lowest of its ports': ours is not that.
var hostMAC = net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}

// podMAC follows from the address, so that neighbours that remember the address of an earlier owner are
// right about its new one. Without an address it follows from the attachment.
func podMAC(a lease.Attachment, addrs []netip.Addr) net.HardwareAddr {
	for _, addr := range addrs {
		if addr.Is4() {
			return append(net.HardwareAddr{0x0a, 0x58}, addr.AsSlice()...)
		}
	}
	seed := []byte(a.Key())
	if len(addrs) > 0 {
		seed = addrs[0].AsSlice()
	}
	sum := sha256.Sum256(seed)
	return append(net.HardwareAddr{0x0a, 0x59}, sum[:4]...)
}
