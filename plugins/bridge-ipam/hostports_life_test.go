package bridgeipam_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestHostPortRace: of many at once that want one port, in two networks, one gets it, and the others leave
// nothing.
func TestHostPortRace(t *testing.T) {
	n := newNode(t)
	one := n.with(nil, mapping{80, 80, "tcp", ""})
	two := n.with(map[string]any{"name": "two", "ipam": ranges("10.77.0.0/24"), "bridge": "br0"}, mapping{80, 80, "tcp", "0.0.0.0"})
	pods := map[string]string{}
	for i := range 8 {
		pods[fmt.Sprintf("c%d", i)] = nettest.NewNS(t)
	}
	for round := range 3 {
		var waits []func() (string, int)
		for id, pod := range pods {
			conf := one
			if strings.ContainsAny(id, "1357") {
				conf = two
			}
			cmd, _, _ := n.start(call{cmd: "ADD", id: id, ifName: "eth0", netns: pod, conf: conf})
			waits = append(waits, func() (string, int) {
				_ = cmd.Wait()
				return id, cmd.ProcessState.ExitCode()
			})
		}
		var winners []string
		for _, wait := range waits {
			if id, code := wait(); code == 0 {
				winners = append(winners, id)
			}
		}
		links, _, leases := n.left()
		if len(winners) != 1 || len(links) != 2 {
			t.Fatalf("round %d: winners %v, links %v, leases %v", round, winners, links, leases)
		}
		serve(t, pods[winners[0]], winners[0], 80+round)
		for id := range pods { // of those that lost too: nothing of the winner's may go
			if id != winners[0] {
				n.del(id, one)
				n.del(id, two)
			}
		}
		if got := n.nft("list", "map", "inet", "bridge-ipam", "hostport-any4"); strings.Count(got, "comment") != 1 {
			t.Errorf("%s", got)
		}
		n.del(winners[0], one)
		n.del(winners[0], two)
		n.clean("br0")
	}
}

// TestHostPortsOfTheDead: a port yields when its owner is gone without DEL: with its namespace, or with its
// lease.
func TestHostPortsOfTheDead(t *testing.T) {
	n := newNode(t)
	lan := n.outside(1500)
	conf := n.with(nil, mapping{80, 80, "tcp", ""}, mapping{80, 80, "tcp", "192.0.2.1"})
	for _, end := range []func(pod string){
		func(pod string) { // the namespace dies, the lease stays
			nettest.DeleteNS(t, pod)
			n.waitForLinks(2)
		},
		func(pod string) { // so do its lease and that of all others
			nettest.DeleteNS(t, pod)
			n.waitForLinks(2)
			ok(t, os.RemoveAll(n.data))
		},
	} {
		gone, pod := nettest.NewNS(t), nettest.NewNS(t)
		n.add("gone", gone, conf)
		end(gone)
		n.add("c", pod, conf)
		serve(t, pod, "pod", 80)
		reaches(t, lan, "tcp", "192.0.2.1:80", "pod 192.0.2.9")
		reaches(t, lan, "tcp", "[fd99::1]:80", "pod fd99::9")
		n.del("gone", conf)
		reaches(t, lan, "tcp", "192.0.2.1:80", "pod 192.0.2.9")
		n.del("c", conf)
		n.clean("uplink", "br0")
	}
}

// TestHostPortsWithoutLeases: when the lease directory was removed, DEL and GC still take the ports of pods that are
// gone, whose addresses are given out again from the first on, and leave those that live theirs.
func TestHostPortsWithoutLeases(t *testing.T) {
	for _, cmd := range []string{"DEL", "GC"} {
		n := newNode(t)
		lan := n.outside(1500)
		conf, other := n.with(nil, mapping{80, 80, "tcp", ""}), n.with(nil, mapping{81, 80, "tcp", ""})
		n.add("c", nettest.NewNS(t), conf)
		living := nettest.NewNS(t)
		n.add("living", living, other)
		serve(t, living, "living", 80)
		ok(t, os.RemoveAll(n.data))
		if cmd == "DEL" {
			n.del("c", conf)
			reaches(t, lan, "tcp", "192.0.2.1:81", "living 192.0.2.9")
			n.del("living", other)
		} else {
			n.quiet(n.gc(nil))
		}
		if _, chains, _ := n.left(); len(chains) != 0 {
			t.Errorf("%s: left: chains %v", cmd, chains)
		}
		if cmd == "DEL" && strings.TrimSpace(nettest.Output(t, n.ns, "sysctl", "-n", "net.ipv4.conf.br0.route_localnet")) != "0" {
			t.Error("the bridge carries 127.0.0.1 still")
		}
	}
}

// waitForLinks waits until the kernel has deleted the links of namespaces that are gone.
func (n *node) waitForLinks(left int) {
	n.t.Helper()
	for deadline := long; deadline > 0; deadline -= short {
		if links, _, _ := n.left(); len(links) == left {
			return
		}
		time.Sleep(short)
	}
	n.t.Errorf("the links stay")
}

// TestHostPortsGC: GC takes the ports of those that are gone and leaves the others theirs, also those of
// another network; the last takes all.
func TestHostPortsGC(t *testing.T) {
	n := newNode(t)
	lan := n.outside(1500)
	kept, other, gone := nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)
	n.add("kept", kept, n.with(nil, mapping{81, 80, "tcp", ""}))
	n.add("gone", gone, n.with(nil, mapping{80, 80, "tcp", ""}, mapping{80, 80, "udp", "192.0.2.1"}))
	another := map[string]any{"name": "net2", "bridge": "br2", "isDefaultGateway": true, "ipam": ranges("10.78.0.0/24")}
	n.add("other", other, n.with(another, mapping{82, 80, "tcp", ""}))
	serve(t, kept, "kept", 80)
	serve(t, other, "other", 80)
	gc := func(changes map[string]any, ids ...string) {
		t.Helper()
		valid := []any{}
		for _, id := range ids {
			valid = append(valid, map[string]any{"containerID": id, "ifname": "eth0"})
		}
		all := map[string]any{"cni.dev/valid-attachments": valid}
		for key, value := range changes {
			all[key] = value
		}
		n.quiet(call{cmd: "GC", conf: n.conf(all)})
	}
	gc(nil, "kept")
	if rules := n.nft("list", "ruleset"); strings.Contains(rules, "net/gone") || strings.Contains(rules, "udp") {
		t.Errorf("%s", rules)
	}
	reaches(t, lan, "tcp", "192.0.2.1:81", "kept 192.0.2.9")
	gc(nil)
	reaches(t, lan, "tcp", "192.0.2.1:82", "other 192.0.2.9")
	at(t, n.ns, func(h *netutil.Handle) {
		if v, err := h.Sysctl("ipv4/conf/br2/route_localnet"); v != "1" {
			t.Errorf("route_localnet is %q, %v", v, err)
		}
	})
	gc(another)
	n.clean("uplink")
}

// TestHostPortsBrokenConfig: DEL lets go of ports whatever has become of the configuration, and leaves no
// link with more than it had.
func TestHostPortsBrokenConfig(t *testing.T) {
	n := newNode(t)
	pod := nettest.NewNS(t)
	n.add("c", pod, n.with(nil, mapping{80, 80, "tcp", ""}, mapping{53, 53, "udp", ""}))
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","runtimeConfig":{"portMappings":7,"io.podwright.netns-destroyed":true},
		"snat":"?","bridge":"br0","ipam":{"dataDir":%q,"ranges":"?"}}`, n.data)
	for range 2 {
		n.del("c", conf)
	}
	links, chains, leases := n.left()
	if len(chains) != 0 || len(leases) != 0 {
		t.Errorf("left: links %v, chains %v, leases %v", links, chains, leases)
	}
}

// TestHostPortFamilies: a port for an address of a family that the pod has not is refused; one for all
// addresses of it is left out.
func TestHostPortFamilies(t *testing.T) {
	n := newNode(t)
	lan, pod := n.outside(1500), nettest.NewNS(t)
	four := map[string]any{"isDefaultGateway": true, "ipam": ranges("10.77.0.0/24")}
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: n.with(four, mapping{80, 80, "tcp", "fd99::1"})}, 7,
		"portMappings", "[fd99::1]:80", "no address")
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: n.with(nil, mapping{80, 80, "tcp", ""}, mapping{80, 81, "tcp", "::"})}, 7,
		"[::]:80", "leads to")
	n.bridgeCalls(true)
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: n.with(nil, mapping{80, 80, "tcp", "::1"})}, 7,
		"::1", "bridge-nf-call-ip6tables")
	n.clean("uplink")
	a := n.run(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: n.with(four, mapping{80, 80, "tcp", "::"}, mapping{80, 80, "tcp", ""})})
	if a.code != 0 || !strings.Contains(a.stderr, "[::]:80") {
		t.Errorf("%+v", a)
	}
	serve(t, pod, "pod", 80)
	reaches(t, lan, "tcp", "192.0.2.1:80", "pod 192.0.2.9")
	silent(t, lan, "tcp", "[fd99::1]:80")
	n.bridgeCalls(false)
	local := nettest.NewNS(t)
	n.add("local", local, n.with(map[string]any{"name": "six", "bridge": "br6", "ipam": ranges("fd76::/64")}, mapping{80, 80, "tcp", "::1"}))
	serve(t, local, "local", 80)
	reaches(t, n.ns, "tcp", "[::1]:80", "local fd76::1")
	silent(t, n.ns, "tcp", "[fd99::1]:80")
}

// TestHostPortAltered: CHECK sees a port that was led elsewhere.
func TestHostPortAltered(t *testing.T) {
	n := newNode(t)
	pod := nettest.NewNS(t)
	conf := n.with(nil, mapping{80, 80, "tcp", "192.0.2.1"})
	r := n.add("c", pod, conf)
	check := call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)}
	n.quiet(check)
	n.nft("delete element inet bridge-ipam hostport-addr4 { tcp . 192.0.2.1 . 80 }")
	n.refused(check, 999, "192.0.2.1:80", "not in nftables map")
	n.nft("add element inet bridge-ipam hostport-addr4 { tcp . 192.0.2.1 . 80 : 10.77.0.9 . 80 }")
	n.refused(check, 999, "192.0.2.1:80", "leads elsewhere")
}

// TestCheckOfWishes: CHECK compares with what it is asked for now, and without a wish with what there was. A
// wish that leads nowhere is fulfilled.
func TestCheckOfWishes(t *testing.T) {
	n := newNode(t)
	pod := nettest.NewNS(t)
	conf := n.with(map[string]any{"ipam": ranges("10.77.0.0/24")}, mapping{80, 80, "tcp", "::"})
	r := n.add("c", pod, conf)
	check := func(conf string) call {
		return call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)}
	}
	n.quiet(check(conf))
	n.quiet(check(n.conf(nil)))
	n.refused(check(n.with(nil, mapping{80, 80, "tcp", "0.0.0.0"})), 999, "host ports", "0.0.0.0:80")
	n.del("c", conf)
	conf = n.with(nil, mapping{80, 80, "tcp", ""})
	r = n.add("c", pod, conf)
	n.quiet(check(conf))
	n.quiet(check(n.conf(nil)))
	n.refused(check(n.with(nil, mapping{80, 81, "tcp", ""})), 999, "host ports", "10.77.0.3:81")
}

// TestManyHostPorts: the last of many mappings works like the first, in one pod and beside those of others.
func TestManyHostPorts(t *testing.T) {
	n := newNode(t)
	lan := n.outside(1500)
	var many []mapping
	for i := range 1000 {
		many = append(many, mapping{20000 + i, 30000 + i, "tcp", ""})
	}
	crowd, pod := nettest.NewNS(t), nettest.NewNS(t)
	conf := n.with(nil, many...)
	r := n.add("crowd", crowd, conf)
	one := n.with(nil, mapping{80, 80, "tcp", ""})
	n.add("c", pod, one)
	serve(t, pod, "pod", 80)
	serve(t, crowd, "first", 30000)
	serve(t, crowd, "last", 30999)
	reaches(t, lan, "tcp", "192.0.2.1:80", "pod 192.0.2.9")
	for port, name := range map[string]string{"20000": "first", "20999": "last"} {
		reaches(t, lan, "tcp", "192.0.2.1:"+port, name+" 192.0.2.9")
		reaches(t, lan, "tcp", "[fd99::1]:"+port, name+" fd99::9")
	}
	n.quiet(call{cmd: "CHECK", id: "crowd", ifName: "eth0", netns: crowd, conf: withPrev(t, conf, r.raw)})
	n.nft("flush", "ruleset")
	n.quiet(call{cmd: "STATUS", conf: n.conf(nil)})
	reaches(t, lan, "tcp", "[fd99::1]:20999", "last fd99::9")
	n.del("crowd", conf)
	reaches(t, lan, "tcp", "192.0.2.1:80", "pod 192.0.2.9")
	silent(t, lan, "tcp", "192.0.2.1:20999")
	n.del("c", one)
	n.clean("uplink", "br0")
	found, err := filepath.Glob(filepath.Join(n.data, "*", "port", "*"))
	if len(found) != 0 || err != nil {
		t.Errorf("%v, %v", found, err)
	}
}

// TestKilledWithHostPorts: wherever an ADD is killed, DEL frees its ports for the next, and nothing is left.
func TestKilledWithHostPorts(t *testing.T) {
	n := newNode(t)
	lan := n.outside(1500)
	conf := n.with(nil, mapping{80, 80, "tcp", ""}, mapping{53, 53, "udp", ""})
	keep := n.with(nil, mapping{81, 80, "tcp", ""})
	n.add("keep", nettest.NewNS(t), keep)
	for step := range 12 {
		killed, next := nettest.NewNS(t), nettest.NewNS(t)
		cmd, _, _ := n.start(call{cmd: "ADD", id: "killed", ifName: "eth0", netns: killed, conf: conf})
		time.Sleep(time.Duration(step) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if step%2 == 0 { // as after a crash of the runtime that forgot all: the namespace is the only trace
			nettest.DeleteNS(t, killed)
			n.waitForLinks(3) // with that of keep
		} else {
			n.del("killed", conf)
		}
		n.add("next", next, conf)
		serve(t, next, "next", 80)
		reaches(t, lan, "tcp", "192.0.2.1:80", "next 192.0.2.9")
		n.del("next", conf)
	}
	n.quiet(call{cmd: "GC", conf: n.conf(map[string]any{
		"cni.dev/valid-attachments": []any{map[string]any{"containerID": "keep", "ifname": "eth0"}},
	})})
	if got := n.nft("list", "ruleset"); strings.Contains(got, "killed") || strings.Contains(got, "next") || !strings.Contains(got, "net/keep") {
		t.Errorf("%s", got)
	}
	n.del("keep", keep)
	n.clean("uplink", "br0")
}

// TestHostPortsOfADamagedLease: what the record said cannot be known, and still nothing of it is left.
func TestHostPortsOfADamagedLease(t *testing.T) {
	n := newNode(t)
	kept, conf := nettest.NewNS(t), n.with(nil, mapping{80, 80, "tcp", ""})
	n.add("c", nettest.NewNS(t), conf)
	found, err := filepath.Glob(filepath.Join(n.data, "net", "rec", "*"))
	ok(t, err)
	for _, record := range found {
		ok(t, os.WriteFile(record, []byte("{"), 0o600))
	}
	other := n.with(nil, mapping{81, 80, "tcp", ""})
	n.add("kept", kept, other)
	n.del("c", conf)
	if got := n.nft("list", "ruleset"); strings.Contains(got, "net/c/") || !strings.Contains(got, "net/kept/") {
		t.Errorf("%s", got)
	}
	n.del("kept", other)
	n.clean("br0")
}

// TestStatusChangesNothing: what is whole is not made anew, and keeps its counters. STATUS comes every few seconds.
func TestStatusChangesNothing(t *testing.T) {
	n := newNode(t)
	conf := n.with(map[string]any{"macspoofchk": true}, mapping{80, 80, "tcp", ""})
	n.add("c", nettest.NewNS(t), conf)
	rules := func() string { return n.tool("nft", "-s", "-a", "list", "ruleset") } // with handles, which are given once
	before := rules()
	n.quiet(call{cmd: "STATUS", conf: n.conf(nil)})
	if after := rules(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
