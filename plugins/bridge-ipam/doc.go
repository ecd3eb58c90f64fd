// Package bridgeipam is the CNI plugin bridge-ipam: one process that gives a container an interface on a
// bridge and its addresses, in the place of the reference plugins bridge and host-local. This page is its
// architecture.
//
// # Parts
//
//	Main            environment, stdin → request; result or error → stdout; exit code
//	add, check, …   one file per operation: orchestration only
//	netconf         stdin → validated configuration                        (pure)
//	ipam            (ranges, taken, last) → address                        (pure)
//	lease           the lease directory of a network                       (files)
//	masq            the masquerade of a network                            (nftables)
//	guard           spoof checks at the ports of a network                 (nftables)
//	shaper          bandwidth limits of one host link                      (queues)
//	hostport        ports of the node that lead to pods                    (nftables)
//	jsontext        JSON without reflection                                (pure)
//	pkg/netutil     links, addresses, routes, sysctls, conntrack, nftables (the kernel)
//
// No program is executed but an IPAM plugin that a configuration names, and no process stays behind. Without
// CNI_COMMAND the program is a tool for people (people, leases, checkconfig).
//
// # Roles
//
//	link and addresses     ipam.type is absent, "bridge-ipam" or "host-local": all below
//	link only              ipam.type is another plugin (delegate): it is asked in every operation
//	addresses only         type is another plugin, which asks us (addresses)
//
// For another plugin's addresses the order of ADD is: link, active at once because dhcp asks through it; that
// plugin's ADD; addresses and routes; a lease that holds nothing and notes what masquerade, CHECK and GC have
// to know. It is the commit of such an ADD. Whatever fails, that plugin's DEL is called.
//
// # ADD
//
//  1. Look: nothing has the name CNI_IFNAME in the namespace. Debris of an ADD of the same attachment that
//     was killed is cleared; a finished attachment is an error, and nothing is changed.
//  2. Lease, under the lock of the network's lease directory: the only step that ADDs of one network do
//     one after the other. From here on the address is ours, and DEL and GC know what to undo.
//  3. In no order: masquerade, spoof checks and the flush of UDP flows of earlier owners; bridge, veth pair (one
//     message, the peer in its namespace from the start), addresses, routes and bandwidth limits. Checks and
//     limits hold before the first packet.
//  4. Host ports: the lease has claimed them, and now they lead to the pod.
//  5. The host end joins the bridge and comes up, in one message, or one after the other where frames are checked. This is the commit: a host end that is
//     up and on a bridge belongs to a finished ADD, any other is debris.
//
// In mode "routed" there is no bridge: the host end has the gateway addresses (169.254.1.1, fe80::1) and comes
// up, and the last route of the host to an address of the pod is the commit.
//
// A failure after step 2 runs the teardown. A crash leaves a lease, perhaps a veth pair that is not on the
// bridge and perhaps an nftables element; DEL, GC and a repeated ADD all clear them.
//
// Rules that somebody deleted (nft flush ruleset, a firewall that was loaded anew) come back from the leases
// with the next ADD, CHECK, GC or STATUS: see restore.go.
//
// # Names
//
// The host end is named and marked by the attachment (veth + 11 digits of a hash of container id and
// interface name; its alias says it in words), so that every operation finds it without a record. The
// container end's MAC follows from its address: a neighbour that still knows the address knows the MAC. The
// ifb of an egress limit is named and marked in the same way (bwp + 12 digits).
//
// # DEL, GC and failed ADD: one teardown
//
//  1. The link goes first: an address must not be given out while an old link can answer for it. It is
//     deleted, or, when the runtime promises to destroy the namespace right after DEL (capability
//     io.podwright.netns-destroyed), taken from the bridge and downed: deleting a veth waits for an RCU
//     grace period, and the namespace's end deletes many together. A link that is down and on no bridge
//     reaches nothing, so the next owner of the address is alone with it. An ifb is deleted in any case.
//  2. Then, under the lock: host port and check elements, flows, the lease; with the network's
//     last lease its chains, and with the last chain the table.
//
// What is gone already is success everywhere. DEL looks at the name of the network, its lease directory and
// the promise and at nothing else, so that a configuration that was broken later still lets go.
//
// The bridge stays after the last DEL. GC with an empty list removes it if it carries our mark and has no
// port but the gateways of VLANs, which are ours too. GC without a list collects what is
// provably dead, and is refused where others are left.
//
// # Beside host-local
//
// Where the reference plugin host-local has leases of a network, they count and are released like ours, and it
// is told of ours; see package lease. A pod that the reference made is found by its namespace: DEL deletes its
// interface there.
//
// # What heals by itself
//
// Leases say which checks and which masquerade their pods have. An ADD that finds the chains of its network
// gone makes them for all leases; GC and STATUS make the checks fit the leases, rule by rule.
package bridgeipam
