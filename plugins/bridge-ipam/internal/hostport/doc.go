// Package hostport owns the ports of the node that lead to pods: what portmap is among the reference
// plugins.
//
// Everything is in the nftables table that masq uses too, under names of its own. One mapping is one entry
// of a map (protocol, address, port) → (pod's address, port), so that neither a packet nor a change costs
// more when there are more of them. Only the first packet of a flow comes here at all. Maps and chains:
//
//	addr4, addr6    host ports on one address of the node
//	any4, any6      on every address; looked at when addr has nothing
//	loop6           on ::1, which any6 leaves out; see below
//	snat4, snat6    (link, pod, protocol, port): flows that came by the link by which the pod is reached,
//	                or from the node's own loopback, to be masqueraded, because answers would not come back
//	self4, self6    (pod, pod): what a pod sends to itself, to be masqueraded
//	all4, all6      (pod, protocol, port): masqAll, to be masqueraded wherever it comes from
//	prerouting, output → dnat     only for destinations that are the node's (CVE-2025-67499), and after
//	                              kube-proxy and others at the usual priority (CVE-2019-9946)
//	postrouting → snat            only for flows whose destination was translated
//	guard                         loopback addresses from outside of lo are dropped (CVE-2020-8558): for
//	                              127.0.0.1 the pod's link routes them (route_localnet)
//
// Every other flow keeps its source address.
//
// # ::1
//
// A flow from ::1 leaves the node under another address, and its answers get ::1 back in the prerouting
// hook, after the kernel's check that no packet from outside is for ::1. It then wants a route to ::1 for
// packets from the link, which is added. Where bridges call ip6tables (bridge-nf-call-ip6tables) the hook
// runs before that check, and the answers are lost: there the node's ::1 is left alone.
//
// # Who owns a port
//
// Leases claim host ports, under the lock of their network. Among networks the map decides, under the lock
// of the network namespace: an entry says by its comment whose host link it belongs to, and it yields to a
// newcomer only when that link is gone. Leases are the truth from which entries come back.
//
// Crash: every change is one transaction of the kernel. An entry without its lease loses its link with the
// teardown and is removed by GC or replaced by the next owner.
package hostport
