package bridgeipam_test

import (
	"testing"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestGuardOfForeignAddresses: checks fit addresses that another plugin gave, and the MAC that the link got
// before there were any.
func TestGuardOfForeignAddresses(t *testing.T) {
	n := newNode(t)
	path := cniPath(t)
	conf, _ := n.foreign(map[string]any{"macspoofchk": true})
	pods := []string{nettest.NewNS(t), nettest.NewNS(t)}
	var results []result
	for i, pod := range pods {
		c := call{cmd: "ADD", id: string("ab"[i]), ifName: "eth0", netns: pod, path: path, conf: conf}
		results = append(results, n.answered(c))
		c.cmd, c.conf = "CHECK", withPrev(t, conf, results[i].raw)
		n.quiet(c)
	}
	for family := range 2 {
		hello(t, pods[0], pods[1], results[1].addr(family))
		hello(t, pods[0], n.ns, results[0].IPs[family].Gateway)
	}
	for i, pod := range pods {
		n.quiet(call{cmd: "DEL", id: string("ab"[i]), ifName: "eth0", netns: pod, path: path, conf: conf})
	}
	if n.bridgeChains() != 0 {
		t.Errorf("%d chains", n.bridgeChains())
	}
}

// TestRoutedBandwidth: without a bridge the limits are the same.
func TestRoutedBandwidth(t *testing.T) {
	n := newNode(t)
	n.outside(1500)
	pod := nettest.NewNS(t)
	conf := n.conf(map[string]any{"mode": "routed", "bridge": nil, "isGateway": nil, "egressRate": 100e6, "egressBurst": 1e6, "ingressRate": 100e6, "ingressBurst": 1e6})
	r := n.add("c", pod, conf)
	seconds, mean := iperf(t, n.ns, pod, r.addr(0), "2")
	t.Logf("ingress %.1f %.1f", mean, seconds)
	check := call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)}
	n.quiet(check)
	nettest.Output(t, n.ns, "tc", "qdisc", "del", "dev", r.Interfaces[0].Name, "root")
	n.refused(check, 999, "limit")
	n.del("c", conf)
	n.clean("uplink")
}
