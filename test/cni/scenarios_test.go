package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/podwright/podwright/test/cni/lab"
)

// v4 is an ipam section with one range, changed.
func v4(changes lab.Conf) lab.Conf {
	r := lab.Conf{"subnet": "10.88.0.0/24"}
	for key, value := range changes {
		r[key] = value
	}
	return lab.Conf{"type": "host-local", "ranges": []any{[]any{r}}, "routes": []any{lab.Conf{"dst": "0.0.0.0/0"}}}
}

// routed is the usual ipam with these routes.
func routed(routes ...lab.Conf) lab.Conf {
	ipam := usual()
	var list []any
	for _, r := range routes {
		list = append(list, r)
	}
	ipam["routes"] = list
	return ipam
}

// sets is an ipam section of range sets as they are.
func sets(list ...[]any) lab.Conf {
	var out []any
	for _, s := range list {
		out = append(out, s)
	}
	return lab.Conf{"type": "host-local", "ranges": out}
}

func subnet(s string) lab.Conf { return lab.Conf{"subnet": s} }

// onlyFirst gives the runtime's wish to pod 0.
func onlyFirst(i int, a *lab.Attachment) {
	if i != 0 {
		a.Runtime, a.Args = nil, ""
	}
}

// node runs ip commands on the node first.
func node(lines ...string) func(*run) {
	return func(r *run) { r.must(r.Batch(lines...)) }
}

var bridges = []scenario{
	{name: "gateway"},
	{name: "no gateway", conf: lab.Conf{"isGateway": false}},
	{name: "no gateway and no routes", conf: lab.Conf{"isGateway": false}, ipam: routed()},
	{name: "gateway without routes", ipam: routed()},
	{name: "default gateway", conf: lab.Conf{"isDefaultGateway": true}, ipam: routed()},
	{name: "default gateway beside a default route", conf: lab.Conf{"isDefaultGateway": true}},
	{name: "default gateway beside a default route with gateway", conf: lab.Conf{"isDefaultGateway": true},
		ipam: routed(lab.Conf{"dst": "0.0.0.0/0", "gw": "10.88.0.1"})},
	{name: "masquerade", conf: lab.Conf{"ipMasq": true}},
	{name: "masquerade by nftables", conf: lab.Conf{"ipMasq": true, "ipMasqBackend": "nftables"}},
	{name: "masquerade by iptables", conf: lab.Conf{"ipMasq": true, "ipMasqBackend": "iptables"}},
	{name: "masquerade by something else", conf: lab.Conf{"ipMasq": true, "ipMasqBackend": "magic"}},
	{name: "masquerade for IPv6", conf: lab.Conf{"ipMasq": true}, ipam: ranges("fd88::/64")},
	{name: "masquerade for both families", conf: lab.Conf{"ipMasq": true}, ipam: ranges("10.88.0.0/24", "fd88::/64")},
	{name: "masquerade for two subnets", conf: lab.Conf{"ipMasq": true}, ipam: ranges("10.88.0.0/24", "10.89.0.0/24")},
	{name: "hairpin", conf: lab.Conf{"hairpinMode": true}},
	{name: "mtu", conf: lab.Conf{"mtu": 1400}},
	{name: "large mtu", conf: lab.Conf{"mtu": 9000}},
	{name: "mtu of a narrow uplink", prepare: node("link set " + lab.Uplink + " mtu 1400")},
	{name: "bridge is there", prepare: node("link add pw0 type bridge", "link set pw0 up")},
	{name: "bridge is there and down", prepare: node("link add pw0 type bridge")},
	{name: "bridge has the gateway", prepare: node("link add pw0 type bridge", "addr add 10.88.0.1/24 dev pw0")},
	{name: "bridge has another address", prepare: node("link add pw0 type bridge", "addr add 10.99.0.1/24 dev pw0")},
	{name: "bridge has another address, forced", conf: lab.Conf{"forceAddress": true},
		prepare: node("link add pw0 type bridge", "addr add 10.99.0.1/24 dev pw0")},
	{name: "bridge has an overlapping IPv6 address", ipam: ranges("fd88::/64"),
		prepare: node("link add pw0 type bridge", "addr add fd88::99/64 dev pw0 nodad")},
	{name: "bridge has another IPv6 address", ipam: ranges("fd88::/64"),
		prepare: node("link add pw0 type bridge", "addr add fd99::1/64 dev pw0 nodad")},
	{name: "bridge's name is another link's", leaves: []string{"pw0,pw1"}, prepare: node("link add pw0 type veth peer name pw1")},
	{name: "bridge filters VLANs", kernel: vlanFiltering, prepare: node("link add pw0 type bridge vlan_filtering 1", "link set pw0 up")},
	{name: "bridge has ports of others", leaves: []string{"o0,o1,pw0"}, prepare: node("link add pw0 type bridge", "link add o0 type veth peer name o1",
		"link set o0 master pw0", "link set o0 up", "link set o1 up", "link set pw0 up")},
	{name: "layer 2 only", conf: lab.Conf{"isGateway": false, "ipam": lab.Conf{}}},
	{name: "layer 2 only, without ipam", conf: lab.Conf{"isGateway": false, "ipam": nil}},
	{name: "IPv6 is off on the node", prepare: func(r *run) { r.must(r.SetSysctl("ipv6/conf/default/disable_ipv6", "1")) },
		ipam: ranges("fd88::/64")},
	{name: "IPv6 is off in the pod", ipam: ranges("fd88::/64"), prepare: func(r *run) {
		for _, pod := range r.pods {
			r.must(pod.SetSysctl("ipv6/conf/all/disable_ipv6", "1"))
			r.must(pod.SetSysctl("ipv6/conf/default/disable_ipv6", "1"))
		}
	}},
}

var addresses = []scenario{
	{name: "old form of one range", ipam: lab.Conf{"type": "host-local", "subnet": "10.88.0.0/24"}},
	{name: "old form with all keys", ipam: lab.Conf{"type": "host-local", "subnet": "10.88.0.0/24", "rangeStart": "10.88.0.20",
		"rangeEnd": "10.88.0.40", "gateway": "10.88.0.254", "routes": []any{lab.Conf{"dst": "0.0.0.0/0"}}}},
	{name: "old form beside the new", ipam: lab.Conf{"type": "host-local", "subnet": "10.87.0.0/24", "ranges": []any{[]any{subnet("10.88.0.0/24")}}}},
	{name: "gateway at the end", ipam: v4(lab.Conf{"gateway": "10.88.0.254"})},
	{name: "gateway in the middle of the range", ipam: v4(lab.Conf{"gateway": "10.88.0.3", "rangeStart": "10.88.0.2"})},
	{name: "range within the subnet", ipam: v4(lab.Conf{"rangeStart": "10.88.0.100", "rangeEnd": "10.88.0.110"})},
	{name: "two ranges in a set", ipam: sets([]any{lab.Conf{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.9", "rangeEnd": "10.88.0.9"}, subnet("10.89.0.0/24")})},
	{name: "two sets", ipam: ranges("10.88.0.0/24", "10.89.0.0/24")},
	{name: "IPv6", ipam: ranges("fd88::/64")},
	{name: "IPv6 default gateway", conf: lab.Conf{"isDefaultGateway": true}, ipam: sets([]any{subnet("fd88::/64")})},
	{name: "both families", ipam: ranges("10.88.0.0/24", "fd88::/64")},
	{name: "both families, IPv6 first", ipam: ranges("fd88::/64", "10.88.0.0/24")},
	{name: "subnet of 4", ipam: v4(lab.Conf{"subnet": "10.88.0.0/30"})},
	{name: "subnet of 2", ipam: v4(lab.Conf{"subnet": "10.88.0.0/31"})},
	{name: "subnet of 1", ipam: v4(lab.Conf{"subnet": "10.88.0.1/32"})},
	{name: "IPv6 subnet of 2", ipam: v4(lab.Conf{"subnet": "fd88::/127"})},
	{name: "subnet with host bits", ipam: v4(lab.Conf{"subnet": "10.88.0.5/24"})},
	{name: "subnet is no subnet", ipam: v4(lab.Conf{"subnet": "10.88.0.0"})},
	{name: "ranges overlap in a set", ipam: sets([]any{subnet("10.88.0.0/24"), subnet("10.88.0.0/25")})},
	{name: "ranges overlap across sets", ipam: sets([]any{subnet("10.88.0.0/24")}, []any{subnet("10.88.0.128/25")})},
	{name: "families mixed in a set", ipam: sets([]any{subnet("10.88.0.0/24"), subnet("fd88::/64")})},
	{name: "range starts outside", ipam: v4(lab.Conf{"rangeStart": "10.89.0.1"})},
	{name: "range ends outside", ipam: v4(lab.Conf{"rangeEnd": "10.89.0.1"})},
	{name: "range is backwards", ipam: v4(lab.Conf{"rangeStart": "10.88.0.9", "rangeEnd": "10.88.0.8"})},
	{name: "gateway outside", conf: lab.Conf{"isGateway": false}, ipam: v4(lab.Conf{"gateway": "10.89.0.1"})},
	{name: "no ranges", ipam: lab.Conf{"type": "host-local"}},
	{name: "one address for two", ipam: v4(lab.Conf{"rangeStart": "10.88.0.7", "rangeEnd": "10.88.0.7"})},
	{name: "wish by CNI_ARGS", args: "IgnoreUnknown=1;IP=10.88.0.77", pod: onlyFirst},
	{name: "wish by CNI_ARGS that only one plugin knows", args: "IP=10.88.0.77", pod: onlyFirst},
	{name: "wish by CNI_ARGS among others", args: "IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.88.0.77", pod: onlyFirst},
	{name: "unknown CNI_ARGS", args: "K8S_POD_NAME=x"},
	{name: "wish by args", conf: lab.Conf{"args": lab.Conf{"cni": lab.Conf{"ips": []any{"10.88.0.78"}}}}},
	{name: "wish by the runtime", runtime: lab.Conf{"ips": []any{"10.88.0.79"}}, pod: onlyFirst},
	{name: "wish by the runtime with a prefix", runtime: lab.Conf{"ips": []any{"10.88.0.79/24"}}, pod: onlyFirst},
	{name: "wish for one of each family", ipam: ranges("10.88.0.0/24", "fd88::/64"),
		runtime: lab.Conf{"ips": []any{"fd88::77", "10.88.0.77"}}, pod: onlyFirst},
	{name: "wish for one family of two", ipam: ranges("10.88.0.0/24", "fd88::/64"), runtime: lab.Conf{"ips": []any{"fd88::77"}}, pod: onlyFirst},
	{name: "wish of both for the same", runtime: lab.Conf{"ips": []any{"10.88.0.79"}}},
	{name: "wish outside", runtime: lab.Conf{"ips": []any{"10.99.0.79"}}},
	{name: "wish for the gateway", runtime: lab.Conf{"ips": []any{"10.88.0.1"}}},
	{name: "wish for broadcast", runtime: lab.Conf{"ips": []any{"10.88.0.255"}}},
	{name: "wish for two of one set", runtime: lab.Conf{"ips": []any{"10.88.0.8", "10.88.0.9"}}},
	{name: "ranges by the runtime", runtime: lab.Conf{"ipRanges": []any{[]any{subnet("10.86.0.0/24")}}}, ipam: lab.Conf{"type": "host-local"}},
	{name: "ranges by the runtime before others", runtime: lab.Conf{"ipRanges": []any{[]any{subnet("10.86.0.0/24")}}}},
}

var details = []scenario{
	{name: "route with a gateway", ipam: routed(lab.Conf{"dst": "203.0.113.0/24", "gw": "10.88.0.9"})},
	{name: "route with all keys", ipam: routed(lab.Conf{"dst": "203.0.113.0/24", "gw": "10.88.0.1", "mtu": 1300, "advmss": 1200, "priority": 50, "table": 100})},
	{name: "route with a scope", ipam: routed(lab.Conf{"dst": "203.0.113.0/24", "scope": 253})},
	{name: "two routes to one place", mute: true, ipam: routed(lab.Conf{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}, lab.Conf{"dst": "0.0.0.0/0", "gw": "10.88.0.9"})},
	{name: "route of the other family", ipam: routed(lab.Conf{"dst": "::/0"})},
	{name: "route to nowhere", ipam: routed(lab.Conf{"dst": "203.0.113.0/24", "gw": "10.99.0.1"})},
	{name: "dns", conf: lab.Conf{"dns": lab.Conf{"nameservers": []any{"10.88.0.1"}, "domain": "d", "search": []any{"a", "b"}, "options": []any{"ndots:5"}}}},
	{name: "dns by resolv.conf", prepare: resolvConf(nil)},
	{name: "dns by both", prepare: resolvConf(lab.Conf{"nameservers": []any{"10.88.0.1"}})},
	{name: "dns by a resolv.conf that is not there", ipam: lab.Conf{"type": "host-local", "subnet": "10.88.0.0/24", "resolvConf": "/nonexistent"}},
	{name: "mac by the runtime", runtime: lab.Conf{"mac": "02:00:5e:00:53:01"}, pod: onlyFirst},
	{name: "mac by CNI_ARGS", args: "IgnoreUnknown=1;MAC=02:00:5e:00:53:02", pod: onlyFirst},
	{name: "mac by all", runtime: lab.Conf{"mac": "02:00:5e:00:53:01"}, args: "IgnoreUnknown=1;MAC=02:00:5e:00:53:02",
		conf: lab.Conf{"args": lab.Conf{"cni": lab.Conf{"mac": "02:00:5e:00:53:03"}}}, pod: onlyFirst},
	{name: "mac is none", runtime: lab.Conf{"mac": "house"}},
	{name: "version 0.1.0", version: "0.1.0"},
	{name: "version 0.2.0, both families", version: "0.2.0", ipam: ranges("10.88.0.0/24", "fd88::/64")},
	{name: "version 0.3.0", version: "0.3.0"},
	{name: "version 0.3.1", version: "0.3.1"},
	{name: "version 0.4.0", version: "0.4.0"},
	{name: "version 1.0.0", version: "1.0.0"},
	{name: "version 2.0.0", version: "2.0.0"},
	{name: "name is bad", network: "net/1"},
	{name: "bridge's name is too long", conf: lab.Conf{"bridge": "abcdefghijklmnop"}},
	{name: "mtu is a word", conf: lab.Conf{"mtu": "large"}},
	{name: "mtu is too small", conf: lab.Conf{"mtu": 10}},
	{name: "unknown key", conf: lab.Conf{"unheardOf": true}},
	{name: "ipam of another kind", conf: lab.Conf{"ipam": lab.Conf{"type": "nonexistent"}}},
}

// resolvConf makes a resolv.conf and names it in ipam.
func resolvConf(dns lab.Conf) func(*run) {
	return func(r *run) {
		path := filepath.Join(r.Dir, "resolv.conf")
		r.must(os.WriteFile(path, []byte("# x\nnameserver 192.0.2.53\nnameserver 2001:db8::53\ndomain example.org\nsearch a.example b.example\noptions ndots:2 rotate\n"), 0o644))
		conf := r.chain.Plugins[0]
		conf["ipam"].(lab.Conf)["resolvConf"] = path
		if dns != nil {
			conf["dns"] = dns
		}
	}
}

// lives are other courses of events than add, talk, delete.
var lives = []scenario{
	{name: "ADD twice", instead: func(r *run) {
		r.add(0)
		_, err := r.Add(r.chain, r.at[0])
		r.note("second ADD", r.outcome(err))
		r.state() // the first is as it was
		r.leftovers("second ADD")
	}},
	{name: "ADD over a link of others", prepare: func(r *run) {
		r.must(r.pods[0].Batch("link add eth0 type veth peer name other", "addr add 10.1.1.1/24 dev eth0"))
	}, instead: func(r *run) {
		_, err := r.Add(r.chain, r.at[0])
		r.note("ADD", r.outcome(err))
		_ = r.Del(r.chain, lab.Attachment{ID: r.at[0].ID, IfName: "eth9", NetNS: r.at[0].NetNS})
		r.state()
		r.leftovers("failed ADD")
	}},
	{name: "ADD after DEL", instead: func(r *run) {
		r.add(0)
		r.del(0)
		r.at[0].Prev = nil
		r.add(0)
		r.state()
		r.del(0)
		r.leftovers(atTheEnd)
	}},
	{name: "DEL before ADD", instead: func(r *run) { r.del(0); r.leftovers(atTheEnd) }},
	{name: "DEL without prevResult", conf: lab.Conf{"ipMasq": true}, instead: func(r *run) {
		r.add(0)
		r.at[0].Prev = nil
		r.del(0)
		r.leftovers(atTheEnd)
	}},
	{name: "DEL without a namespace", conf: lab.Conf{"ipMasq": true}, instead: func(r *run) {
		r.add(0)
		r.at[0].NetNS = ""
		r.del(0)
		r.leftovers(atTheEnd)
	}},
	{name: "DEL after the namespace", conf: lab.Conf{"ipMasq": true}, instead: func(r *run) {
		r.add(0)
		r.pods[0].Close()
		r.pods = r.pods[1:]
		r.waitForLinks(1)
		r.del(0)
		r.leftovers(atTheEnd)
	}},
	{name: "DEL after the bridge", instead: func(r *run) {
		r.add(0)
		r.must(r.Batch("link del pw0"))
		r.del(0)
		r.leftovers(atTheEnd)
	}},
	{name: "DEL after the leases", instead: func(r *run) {
		r.add(0)
		r.must(os.RemoveAll(filepath.Join(r.Dir, "leases")))
		r.del(0)
		r.leftovers(atTheEnd)
	}},
	{name: "DEL of another interface", instead: func(r *run) {
		r.add(0)
		r.note("DEL eth1", r.outcome(r.Del(r.chain, lab.Attachment{ID: r.at[0].ID, IfName: "eth1", NetNS: r.at[0].NetNS})))
		r.state()
		r.leftovers("DEL eth1")
	}},
	{name: "two interfaces of one pod", instead: func(r *run) {
		r.add(0)
		r.at[1] = lab.Attachment{ID: r.at[0].ID, IfName: "eth1", NetNS: r.at[0].NetNS}
		r.pods[1] = r.pods[0]
		r.add(1)
		r.state()
		r.del(0)
		r.leftovers("DEL eth0")
		r.state()
	}, ipam: routed()},
	{name: "in a chain behind another", instead: func(r *run) {
		first := json.RawMessage(`{"cniVersion":"1.1.0","interfaces":[{"name":"o0","mac":"02:00:5e:00:53:09"}],` +
			`"ips":[{"address":"192.0.2.9/32","interface":0}],"routes":[{"dst":"192.0.2.0/24"}]}`)
		r.chain.Plugins[0]["prevResult"] = first
		r.add(0)
	}},
	{name: "GC and STATUS", instead: func(r *run) {
		r.note("STATUS before", r.outcome(r.Status(r.chain)))
		r.add(0)
		r.add(1)
		r.note("STATUS", r.outcome(r.Status(r.chain)))
		r.note("GC", r.outcome(r.GC(r.chain, []lab.Valid{{ContainerID: "pod1", IfName: "eth0"}})))
		r.leftovers("GC")
	}},
	{name: "nothing but the right environment", instead: func(r *run) {
		for _, command := range []string{"ADD", "DEL", "CHECK", "SING"} {
			for _, a := range []lab.Attachment{{}, {ID: "-x", NetNS: r.at[0].NetNS}, {ID: "x", IfName: "a/b", NetNS: r.at[0].NetNS},
				{ID: "x", NetNS: "/nonexistent"}, {ID: "x", NetNS: r.Path()}} {
				_, err := r.RunPlugin(r.chain.First(command, a))
				r.note(fmt.Sprintf("%s of %q %q %q", command, a.ID, a.IfName, r.called(a.NetNS)), r.outcome(err))
			}
		}
	}},
}

// damages are what CHECK has to find.
var damages = func() (list []scenario) {
	for what, damage := range map[string]func(r *run){
		"address is gone":    func(r *run) { r.must(r.pods[0].Batch("addr del 10.88.0.2/24 dev eth0")) },
		"route is gone":      func(r *run) { r.must(r.pods[0].Batch("route del default")) },
		"mac is another":     func(r *run) { r.must(r.pods[0].Batch("link set eth0 address 02:00:5e:00:53:07")) },
		"pod's link is gone": func(r *run) { r.must(r.pods[0].Batch("link del eth0")) },
		"pod's link is down": func(r *run) { r.must(r.pods[0].Batch("link set eth0 down")) },
		"host link is off":   func(r *run) { r.must(r.Batch("link set " + r.hostLink(0) + " nomaster")) },
		"host link is down":  func(r *run) { r.must(r.Batch("link set " + r.hostLink(0) + " down")) },
		"bridge is gone":     func(r *run) { r.must(r.Batch("link del pw0")) },
		"gateway is gone":    func(r *run) { r.must(r.Batch("addr del 10.88.0.1/24 dev pw0")) },
		"lease is gone":      func(r *run) { r.must(os.RemoveAll(filepath.Join(r.Dir, "leases"))) },
		"masquerade is gone": func(r *run) { _, err := r.Run("nft", "flush", "ruleset"); r.must(err) },
		"a later plugin added one": func(r *run) {
			r.must(r.pods[0].Batch("addr add 10.1.1.1/24 dev eth0", "route add 192.0.2.0/24 dev eth0"))
		},
	} {
		list = append(list, scenario{name: "CHECK when " + what, untidy: what == "lease is gone", conf: lab.Conf{"ipMasq": true}, instead: func(r *run) {
			r.add(0)
			r.check("CHECK before", 0)
			damage(r)
			r.check("CHECK after", 0)
			r.del(0)
			r.leftovers(atTheEnd)
		}})
	}
	return list
}()
