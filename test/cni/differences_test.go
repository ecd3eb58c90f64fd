package cni

// built says which features of the reference plugins bridge-ipam has. Scenarios of the others expect that it refuses
// them with code 2.
var built = map[string]bool{
	"portmap": true, "bandwidth": true, "vlan": true, "macspoofchk": true, "promiscMode": true,
	"portIsolation": true, "enabledad": true, "disableContainerInterface": true,
}

// What the regular expressions of differences are made of.
const (
	any0    = `.*`
	podLink = `pod\d eth\d `
	port    = `node HOST\d `
	bridge  = `node pw0 `
	refused = `error ([2467]|11)`
	vlanned = `vlan|vlan and the default one`
)

// differences are those that are meant.
var differences = []difference{
	// Links.
	{key: port + `alias`, theirs: ``, ours: `bridge-ipam/.*`, reason: "the host end says whose it is: GC and people find it without a record"},
	{key: bridge + `alias`, theirs: ``, ours: `bridge-ipam`, reason: "GC removes only bridges that we made"},
	{key: port + `link`, theirs: any0 + ` queue 0`, ours: any0 + ` queue 1000`, reason: "the reference sets a queue of 0 by accident of its library; it has no effect until a qdisc is added"},
	{key: port + `(addresses|sysctl ipv6/conf/HOST\d/addr_gen_mode)`, reason: "a port needs no address: none to be reached by, and no duplicate address detection"},
	{key: port + `sysctl ipv6/conf/HOST\d/disable_ipv6`, theirs: `0`, ours: `1`, reason: "the bridge takes what comes in, and the routes of IPv6 at each port make the next one slower"},
	{key: `(` + port + `|pod\d ADD result.interfaces\[\d\].)mac`, theirs: `HOSTMAC\d`, ours: `HOSTMAC\d`,
		reason: "no frame comes from a host end, and MACs of their own make a bridge's list of addresses longer"},
	{key: bridge + `sysctl ipv6/conf/pw0/accept_dad`, theirs: `1`, ours: `0`, reason: "the gateway is usable at once"},
	{key: bridge + `nodad .*:.*`, theirs: `false`, ours: `true`, reason: "the gateway is usable at once"},
	{key: podLink + `nodad .*:.*`, theirs: `false`, ours: `true`, reason: "an address of our own range is no duplicate, and is usable at once"},
	{key: podLink + `sysctl ipv4/conf/eth\d/arp_notify`, theirs: `1`, ours: `0`, reason: "the MAC follows from the address, so that no neighbour is wrong about it: an announcement would only flood the ports"},
	{key: podLink + `sysctl ipv6/conf/eth\d/ndisc_notify`, theirs: `0`, ours: `1`, reason: "neighbours learn a new MAC at once for IPv6 too; the reference means to, and does so only where it waits for detection"},
	{key: podLink + `sysctl ipv6/conf/eth\d/accept_ra`, theirs: `1`, ours: `0`, reason: "a pod that has its routes, or IPv4 alone, takes none from whoever advertises some"},
	{key: podLink + `sysctl ipv6/conf/eth\d/disable_ipv6`, theirs: `0`, ours: `1`, reason: "a pod with IPv4 alone has no IPv6 by which rules for IPv4 are passed by (ipv6LinkLocal)"},
	{key: podLink + `sysctl ipv6/conf/eth\d/accept_dad`, theirs: `0`, ours: `1`, reason: "without IPv6 there is nothing to detect"},
	{key: podLink + `addresses`, theirs: `(10\.[^:;]* global; )+link-local`, ours: `10\.[^:]* global`, reason: "a pod with IPv4 alone has no IPv6"},
	{key: bridge + `bridge mcast_snooping`, theirs: `1`, ours: `0`, reason: "nobody on a pods' bridge asks for memberships, and the kernel looks at all ports for each that joins"},
	{key: `IPv6 addresses are ready`, theirs: `after a while`, ours: `at once`, reason: "no duplicate address detection on either end"},
	{scenario: `layer 2 only.*|link stays down|vlan trunk`, key: podLink + `sysctl ipv4/conf/eth0/arp_notify`, theirs: `0`, ours: `1`, reason: "a later plugin may add an address"},
	{scenario: `mtu of a narrow uplink`, key: any0 + ` link`, theirs: any0 + `1500` + any0, ours: any0 + `1400` + any0, reason: "the MTU is that of the default route's link"},
	{scenario: `layer 2 only.*|no gateway.*|bridge has the gateway|link stays down|vlan.*`, key: any0 + `mac`, reason: "the reference pins the bridge's MAC only when it adds an address; else, and with a VLAN, it follows the ports"},
	{scenario: `bridge (is there|has).*`, key: bridge + `state`, theirs: `UP`, ours: `UNKNOWN`,
		reason: "the MAC is pinned before the first port joins; the kernel then sees no change of carrier, and both states carry packets"},
	{scenario: `layer 2 only.*|no gateway.*|bridge has the gateway|link stays down|vlan.*`, key: `pod\d CHECK`, theirs: `error`, ours: `fine`,
		reason: "the reference reports a MAC of the bridge that changes afterwards"},

	{scenario: `link stays down`, key: bridge + `addresses`, theirs: `link-local`, ours: ``, needs: "disableContainerInterface",
		reason: "without a port that is up the bridge has no carrier; the reference's has one by accident of when it was made"},
	{scenario: `layer 2 only.*|link stays down|vlan trunk`, key: podLink + `sysctl ipv6/conf/eth0/accept_dad`, theirs: `1`, ours: `0`, reason: "a later plugin may add an address"},
	{scenario: `route with all keys`, key: `pod\d routes -4`, ours: any0 + ` mtu 1300 advmss 1200`, reason: "the reference ignores two keys that it reports as done"},
	{scenario: `route with all keys`, key: `pod\d CHECK`, theirs: `error`, ours: `fine`, reason: "the reference looks for the route in the main table only"},

	{key: `pod\d ADD result.interfaces\[\d\].mtu`, theirs: `–`, ours: `\d+`, needs: "portmap",
		reason: "the specification has it since 1.1.0; the reference leaves it out"},

	// What works with us only.
	{scenario: `two sets|masquerade for two subnets|two ranges in a set|old form beside the new|ranges by the runtime before others`, key: `pod\d ADD`,
		theirs: `error 999`, ours: `fine`, reason: "the gateways of one network do not conflict"},
	{scenario: `IPv6 is off on the node`, key: `pod\d ADD`, theirs: `error 999`, ours: `fine`, reason: "IPv6 is turned on for the bridge when the network has it"},
	{scenario: `default gateway beside a default route`, key: `pod\d ADD`, theirs: `error 999`, ours: `fine`,
		reason: "a default route that is there already is no error"},
	{scenario: `wish by CNI_ARGS that only one plugin knows`, key: `pod\d ADD`, theirs: `error 999`, ours: `fine`,
		reason: "one plugin knows all keys, of which each of the two refuses the other's"},

	// Errors.
	{key: `(pod\d )?(ADD|CHECK of).*`, theirs: `error (0|999)`, ours: refused, reason: "a code of the specification, and before anything is touched"},
	{key: `ADD of "x" "" "NODE"`, theirs: `error 0`, ours: `error 8`, reason: "a code of the specification"},
	{key: `DEL of "x" "" "NODE"`, theirs: `error 8`, ours: `fine`, reason: "DEL succeeds wherever nothing is left to delete"},
	{key: `failed ADD leaves links`, theirs: `pw0`, ours: ``, reason: "what is refused changes nothing, and makes no bridge"},
	{key: `.* leaves links( in pod\d)?`, theirs: `.*VETH.*|1|pw0`, ours: `(pw0)?|0`, reason: "a failed ADD takes its links back; the reference leaves that to DEL"},
	{key: `node (VETH|pw0) .*`, ours: `–`, reason: "a failed ADD takes its links back"},

	// Host ports, bandwidth and the roles of ports.
	{scenario: `.*hostPorts?.*`, key: port + `port hairpin`, theirs: `false`, ours: `true`, needs: "portmap", reason: "a pod reaches itself through its own host port"},
	{scenario: `.*hostPorts?.*`, key: `pod0 hostPort .*`, theirs: `no answer`, ours: `pod0 sees .*`, needs: "portmap", reason: "a pod reaches itself through its own host port"},
	{scenario: `.*hostPorts?.*`, key: `pod1 hostPort .*`, theirs: `pod0 sees (10.88.0.1|fd88::1)`, ours: `pod0 sees (10.88.0.3|fd88::3)`, needs: "portmap",
		reason: "a neighbour keeps its address; the reference masquerades all of the pod's network"},
	{scenario: `hostPort of both families.*`, key: `node hostPort .* localhost6`, theirs: `no answer`, ours: `connection refused`, needs: "portmap",
		reason: "IPv6 has no routes from its localhost: the answer comes at once"},
	{scenario: `hostPort of both families at an IPv6 address`, key: bridge + `sysctl ipv4/conf/pw0/route_localnet`, theirs: `1`, ours: `0`, needs: "portmap",
		reason: "no IPv4 port is published"},
	{scenario: `hostPort 0`, key: `pod0 ADD`, theirs: `error 999`, ours: `fine`, needs: "portmap", reason: "0 is how a runtime says that a port is not published"},
	{scenario: `bandwidth.*`, key: `node SHAPER\d (alias|addresses|link|sysctl .*)`, needs: "bandwidth", reason: "the link says whose it is, and needs no address"},
	{scenario: `bandwidth.*`, key: `node SHAPER\d qdisc`, theirs: any0 + `lat 25ms`, ours: any0 + `lat 30.4ms`, needs: "bandwidth",
		reason: "tc derives the latency from the limit, which has room for one more packet of the link's MTU"},
	{scenario: `bandwidth.*`, key: `pod\d ADD result.interfaces\[3\].mac`, needs: "bandwidth", reason: "random in both"},
	{scenario: `bandwidth without a burst`, key: `at the end leaves (leases|links.*)`, needs: "bandwidth", reason: "a failed ADD takes all back; the reference leaves that to DEL"},
	{scenario: `spoof check`, key: `pod0 DEL leaves nftables with pod1's address`, theirs: `false`, ours: `true`, needs: "macspoofchk",
		reason: "ours checks the addresses of IPv4 and IPv6 too, and pod1 is still there"},
	{scenario: `route with a scope`, key: `pod\d ADD`, theirs: `error 999`, ours: `fine`, needs: "portmap", reason: "such a route has no gateway (ip-route(8)): the network's is left out"},

	// VLANs. Their scenarios need a kernel that filters them.
	{scenario: vlanned, key: `node (VETH|pw0.100) (alias|addresses|link|sysctl ipv6/.*|nodad .*)`, needs: "vlan",
		reason: "the port of the gateway is one as others: it says whose it is and needs no address; the gateway is usable at once"},
	{scenario: vlanned, key: `pod\d ADD result.interfaces\[3\].mac`, needs: "vlan", reason: "random in both"},

	// Lives.
	{key: `.* leaves nftables (objects|with pod\d's address)`, theirs: `[1-9]\d*|true`, ours: `0|false|–`, reason: "with the last attachment the table goes"},
	{scenario: `DEL without a namespace`, key: any0 + `leaves links.*`, theirs: `HOST0,pw0|1`, ours: `pw0|0`, reason: "the host end is found by its name"},
	{scenario: `in a chain behind another`, key: `pod0 ADD result.*`, reason: "what earlier plugins made stays in the result (specification, ADD)"},
	{scenario: `GC and STATUS`, key: `GC leaves .*`, reason: "the reference has no GC"},
	{scenario: `CHECK when (masquerade|gateway) is gone|CHECK when host link is down`, key: `CHECK after`, theirs: `fine`, ours: `error`, reason: "it is as broken as it looks"},
}
