package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/podwright/podwright/test/cni/lab"
)

// result is what tests look at in the result of ADD, of any version since 0.3.0.
type result struct {
	IPs []struct {
		Address netip.Prefix `json:"address"`
		Gateway netip.Addr   `json:"gateway"`
	} `json:"ips"`
}

// addresses are those of pod i, by family.
func (r *run) addresses(i int) map[string]netip.Addr {
	r.t.Helper()
	out := map[string]netip.Addr{}
	if r.at[i].Prev == nil {
		return out
	}
	links, err := linksOf(r.pods[i])
	r.must(err)
	for _, l := range links {
		for _, a := range l.Addrs {
			addr := netip.MustParseAddr(a.Local)
			family := "4"
			if addr.Is6() {
				family = "6"
			}
			if l.Name != "lo" && !addr.IsLinkLocalUnicast() && !out[family].IsValid() {
				out[family] = addr
			}
		}
	}
	return out
}

// gateway is the first gateway of a family in the result.
func (r *run) gateway(i int, family string) netip.Addr {
	var res result
	_ = json.Unmarshal(r.at[i].Prev, &res) // results before 0.3.0 name no gateway in this form
	for _, ip := range res.IPs {
		if ip.Gateway.Is6() == (family == "6") && ip.Gateway.IsValid() {
			return ip.Gateway
		}
	}
	return netip.Addr{}
}

// talk notes who reaches whom, and as whom.
func (r *run) talk() {
	r.t.Helper()
	for name, ns := range r.everybody() {
		stop, err := ns.Serve(name, lab.Port)
		r.must(err)
		defer stop()
	}
	around := map[string]map[string]string{
		"4": {"node": lab.NodeAddr4, "lan": lab.LANAddr4, "outside": lab.OutsideAddr4},
		"6": {"node": lab.NodeAddr6, "lan": lab.LANAddr6, "outside": lab.OutsideAddr6},
	}
	r.settle()
	for family, targets := range around {
		for i := range r.pods {
			if addr, ok := r.addresses(i)[family]; ok {
				targets[fmt.Sprintf("pod%d", i)] = addr.String()
			}
		}
		if gw := r.gateway(0, family); gw.IsValid() {
			targets["gateway"] = gw.String()
		}
		if targets["pod0"] == "" {
			continue
		}
		for from, ns := range r.everybody() {
			for to, addr := range targets {
				if from == "pod0" || strings.HasPrefix(to, "pod") || to == "gateway" && from == "pod1" {
					r.ask(fmt.Sprintf("IPv%s %s → %s", family, from, to), ns, "tcp", addr)
				}
			}
		}
	}
	if r.portmap != nil {
		r.hostPorts()
	}
}

// settle waits until no address is tentative any more, and notes whether it had to for one that pods use. The
// link-local ones matter too: the kernel looks for neighbours in their name when it forwards.
func (r *run) settle() {
	r.t.Helper()
	ready := "at once"
	for range 100 {
		waiting := false
		for _, ns := range r.everybody() {
			links, err := linksOf(ns)
			r.must(err)
			for _, l := range links {
				for _, a := range l.Addrs {
					waiting = waiting || a.Tentative
					if a.Tentative && a.Scope == "global" {
						ready = "after a while"
					}
				}
			}
		}
		if !waiting {
			r.note("IPv6 addresses are ready", ready)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.t.Error("an address stays tentative")
}

func (r *run) everybody() map[string]*lab.NS {
	all := map[string]*lab.NS{"node": r.NS, "lan": r.LAN}
	for i, pod := range r.pods {
		if r.at[i].Prev != nil {
			all[fmt.Sprintf("pod%d", i)] = pod
		}
	}
	return all
}

func (r *run) ask(key string, from *lab.NS, network, addr string) {
	r.t.Helper()
	r.note(key, from.Ask(network, netip.AddrPortFrom(netip.MustParseAddr(addr), lab.Port).String()))
}

// hostPorts asks for every published port in every way that a user would.
func (r *run) hostPorts() {
	r.t.Helper()
	mappings, _ := r.runtime["portMappings"].([]any)
	for _, m := range mappings {
		m := m.(lab.Conf)
		network := fmt.Sprint(m["protocol"])
		for target, addr := range map[string]string{
			"node": lab.NodeAddr4, "node6": lab.NodeAddr6, "localhost": "127.0.0.1", "localhost6": "::1", "127.0.0.2": "127.0.0.2",
			"outside": lab.OutsideAddr4, "gateway": "10.88.0.1",
		} {
			for from, ns := range r.everybody() {
				if strings.HasPrefix(target, "localhost") && from != "node" || target == "127.0.0.2" && from != "node" ||
					target == "outside" && strings.HasPrefix(from, "lan") {
					continue
				}
				to := netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(m["hostPort"].(int)))
				r.note(fmt.Sprintf("%s hostPort %s %v → %s", from, network, m["hostPort"], target), ns.Ask(network, to.String()))
			}
		}
	}
}
