package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/podwright/podwright/test/cni/lab"
)

// link is what ip -j -d address show says of a link, as far as facts are made of it.
type link struct {
	Index     int      `json:"ifindex"`
	Name      string   `json:"ifname"`
	LinkIndex int      `json:"link_index"`
	Flags     []string `json:"flags"`
	MTU       int      `json:"mtu"`
	State     string   `json:"operstate"`
	Master    string   `json:"master"`
	MAC       string   `json:"address"`
	Promisc   int      `json:"promiscuity"`
	Alias     string   `json:"ifalias"`
	Queue     int      `json:"txqlen"`
	Info      struct {
		Kind string         `json:"info_kind"`
		Data map[string]any `json:"info_data"`
		Port map[string]any `json:"info_slave_data"`
	} `json:"linkinfo"`
	Addrs []struct {
		Local      string `json:"local"`
		Prefix     int    `json:"prefixlen"`
		Broadcast  string `json:"broadcast"`
		Scope      string `json:"scope"`
		NoDAD      bool   `json:"nodad"`
		Tentative  bool   `json:"tentative"`
		DADFailed  bool   `json:"dadfailed"`
		Deprecated bool   `json:"deprecated"`
	} `json:"addr_info"`
}

func linksOf(ns *lab.NS) ([]link, error) {
	out, err := ns.Run("ip", "-j", "-d", "address", "show")
	if err != nil {
		return nil, err
	}
	var list []link
	return list, json.Unmarshal([]byte(out), &list)
}

// names finds the host end of pod i, whose name is random in the reference, and the MACs.
func (r *run) names(i int) {
	r.t.Helper()
	in, err := linksOf(r.pods[i])
	r.must(err)
	on, err := linksOf(r.NS)
	r.must(err)
	for _, p := range in {
		if p.Info.Kind != "veth" {
			continue
		}
		r.word(p.MAC, fmt.Sprintf("MAC%d", i))
		for _, h := range on {
			if h.Index == p.LinkIndex && h.Info.Kind == "veth" {
				r.word(h.Name, fmt.Sprintf("HOST%d", i))
				r.word(h.MAC, fmt.Sprintf("HOSTMAC%d", i))
				r.shaperOf(i, h.Name)
			}
		}
	}
	for _, h := range on {
		if h.Name == bridgeName {
			r.word(h.MAC, "BRIDGEMAC")
		}
	}
}

// shaperOf finds the link through which what a pod sends is shaped.
func (r *run) shaperOf(i int, host string) {
	r.t.Helper()
	out, err := r.Run("tc", "filter", "show", "dev", host, "ingress")
	r.must(err)
	if found := redirect.FindStringSubmatch(out); found != nil {
		r.word(found[1], fmt.Sprintf("SHAPER%d", i))
	}
}

var redirect = regexp.MustCompile(`Redirect to device (\S+)\)`)

// state notes what the kernel has on the node and in the pods.
func (r *run) state() {
	r.t.Helper()
	r.waitForCarrier()
	for i, pod := range r.pods {
		if r.at[i].Prev != nil {
			r.namespace(fmt.Sprintf("pod%d", i), pod)
		}
	}
	r.namespace("node", r.NS)
}

// waitForCarrier gives the kernel, which tells the other end of a link in its own time, a second.
func (r *run) waitForCarrier() {
	r.t.Helper()
	for range 20 {
		waiting := false
		for _, pod := range r.pods {
			links, err := linksOf(pod)
			r.must(err)
			for _, l := range links {
				waiting = waiting || slices.Contains(l.Flags, "NO-CARRIER")
			}
		}
		if !waiting {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *run) namespace(key string, ns *lab.NS) {
	r.t.Helper()
	links, err := linksOf(ns)
	r.must(err)
	for _, l := range links {
		if l.Name == "lo" || l.Name == lab.Uplink {
			continue
		}
		r.link(key+" "+r.called(l.Name), ns, l)
	}
	r.vlans(key, ns, links)
	r.qdiscs(key, ns)
	r.routes(key, ns)
	for _, what := range []string{"neigh", "rule"} {
		out, err := ns.Run("ip", what, "show")
		r.must(err)
		// The neighbours that the LAN and the kernel learn by themselves are no work of a plugin.
		lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(out), "\n"), func(l string) bool {
			return strings.Contains(l, lab.Uplink) || strings.HasPrefix(l, "fe80")
		})
		r.note(key+" "+what, strings.Join(lines, "; "))
	}
	for _, s := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/lo/disable_ipv6"} {
		r.sysctl(key, ns, s)
	}
}

// portDetails and bridgeDetails are the settings that have an effect on packets.
var (
	portDetails   = []string{"state", "hairpin", "guard", "root_block", "fastleave", "learning", "flood", "mcast_flood", "bcast_flood", "isolated", "proxy_arp", "neigh_suppress", "locked"}
	bridgeDetails = []string{"stp_state", "vlan_filtering", "ageing_time", "forward_delay", "vlan_default_pvid", "mcast_snooping", "nf_call_iptables", "group_fwd_mask"}
)

func (r *run) link(key string, ns *lab.NS, l link) {
	r.t.Helper()
	slices.Sort(l.Flags)
	r.note(key+" flags", strings.Join(l.Flags, ","))
	r.note(key+" link", fmt.Sprintf("%s mtu %d master %q promiscuity %d queue %d", l.Info.Kind, l.MTU, l.Master, l.Promisc, l.Queue))
	r.note(key+" state", l.State)
	if mac := r.called(l.MAC); mac != l.MAC || strings.HasPrefix(mac, "02:00:5e") {
		r.note(key+" mac", mac)
	}
	r.note(key+" alias", l.Alias)
	for _, d := range portDetails {
		if l.Info.Port != nil {
			r.note(key+" port "+d, fmt.Sprint(l.Info.Port[d]))
		}
	}
	for _, d := range bridgeDetails {
		if l.Info.Kind == "bridge" {
			r.note(key+" bridge "+d, fmt.Sprint(l.Info.Data[d]))
		}
	}
	var addrs []string
	for _, a := range l.Addrs {
		if strings.HasPrefix(a.Local, "fe80") {
			addrs = append(addrs, "link-local") // it follows from the MAC
			continue
		}
		addrs = append(addrs, fmt.Sprintf("%s/%d brd %q %s", a.Local, a.Prefix, a.Broadcast, a.Scope))
		r.note(key+" nodad "+a.Local, fmt.Sprint(a.NoDAD))
	}
	slices.Sort(addrs)
	r.note(key+" addresses", strings.Join(addrs, "; "))
	for _, s := range []string{"forwarding", "route_localnet", "arp_notify", "proxy_arp", "rp_filter"} {
		r.sysctl(key, ns, "ipv4/conf/"+l.Name+"/"+s)
	}
	for _, s := range []string{"accept_ra", "accept_dad", "disable_ipv6", "ndisc_notify", "forwarding", "addr_gen_mode"} {
		r.sysctl(key, ns, "ipv6/conf/"+l.Name+"/"+s)
	}
}

// vlans notes which VLANs each port is a member of, and how, where a bridge looks at them.
func (r *run) vlans(key string, ns *lab.NS, links []link) {
	r.t.Helper()
	if !slices.ContainsFunc(links, func(l link) bool { return l.Info.Data["vlan_filtering"] == 1.0 }) {
		return
	}
	out, err := ns.Run("bridge", "-j", "vlan", "show")
	r.must(err)
	var ports []struct {
		Name  string `json:"ifname"`
		VLANs []any  `json:"vlans"`
	}
	r.must(json.Unmarshal([]byte(out), &ports))
	for _, p := range ports {
		r.note(key+" "+r.called(p.Name)+" vlans", fmt.Sprint(p.VLANs))
	}
}

// qdiscs notes the queueing disciplines of all links.
func (r *run) qdiscs(key string, ns *lab.NS) {
	r.t.Helper()
	out, err := ns.Run("tc", "qdisc", "show")
	r.must(err)
	of := map[string][]string{}
	for line := range strings.Lines(out) {
		before, after, found := strings.Cut(strings.TrimSpace(line), " dev ")
		if link, settings, _ := strings.Cut(after, " "); found && link != "lo" && link != lab.Uplink {
			of[link] = append(of[link], before+" "+settings)
		}
	}
	for link, list := range of {
		r.note(key+" "+r.called(link)+" qdisc", strings.Join(list, "; "))
	}
}

func (r *run) sysctl(key string, ns *lab.NS, name string) {
	r.t.Helper()
	value, err := ns.Sysctl(name)
	r.must(err)
	r.note(key+" sysctl "+r.called(name), value)
}

// routes notes the routes of all tables but those that the kernel makes for local addresses.
func (r *run) routes(key string, ns *lab.NS) {
	r.t.Helper()
	for _, family := range []string{"-4", "-6"} {
		out, err := ns.Run("ip", "-d", family, "route", "show", "table", "all")
		r.must(err)
		var lines []string
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			if len(fields) == 0 || slices.Contains(fields, lab.Uplink) || slices.Contains(fields, "local") ||
				fields[0] == "broadcast" || fields[0] == "anycast" || fields[0] == "multicast" {
				continue
			}
			line = strings.Join(fields, " ")
			if strings.Contains(line, "fe80::/64") {
				continue // comes with the link-local address
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		r.note(key+" routes "+family, strings.Join(lines, "; "))
	}
}

// leftovers notes what is on the node, and what of the last configuration is in the pods.
func (r *run) leftovers(key string) {
	r.t.Helper()
	links, err := linksOf(r.NS)
	r.must(err)
	var names []string
	for _, l := range links {
		if l.Name != "lo" && l.Name != lab.Uplink {
			names = append(names, r.called(l.Name))
		}
	}
	slices.Sort(names)
	r.note(key+" leaves links", strings.Join(names, ","))
	for i, pod := range r.pods {
		links, err := linksOf(pod)
		r.must(err)
		r.note(fmt.Sprintf("%s leaves links in pod%d", key, i), fmt.Sprint(len(links)-1))
	}
	r.note(key+" leaves leases", strings.Join(r.leases(), ","))
	left := rules(r)
	for i := range r.pods {
		for _, addr := range r.addresses(i) {
			r.note(fmt.Sprintf("%s leaves nftables with pod%d's address", key, i), fmt.Sprint(mentions(left, addr.String())))
		}
	}
	if key == atTheEnd {
		r.note(key+" leaves nftables objects", fmt.Sprint(len(left)))
	}
}

func mentions(list []string, text string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, `"`+text+`"`) })
}

// leases lists the addresses that are held. Both keep one name per address: the reference a file that says whose it is,
// ours a link to the owner's record.
func (r *run) leases() []string {
	r.t.Helper()
	var out []string
	for _, pattern := range []string{"leases/*/*", "leases/*/ip/*"} {
		found, err := filepath.Glob(filepath.Join(r.Dir, pattern))
		r.must(err)
		for _, f := range found {
			if _, err := os.Stat(f); err == nil && strings.ContainsAny(filepath.Base(f), ".:") && !strings.HasPrefix(filepath.Base(f), "last") {
				out = append(out, filepath.Base(f))
			}
		}
	}
	slices.Sort(out)
	return out
}

// rules lists what is in nftables, each object with its kind.
func rules(r *run) []string {
	r.t.Helper()
	out, err := r.Run("nft", "-j", "list", "ruleset")
	r.must(err)
	var ruleset struct {
		Objects []map[string]json.RawMessage `json:"nftables"`
	}
	r.must(json.Unmarshal([]byte(out), &ruleset))
	var list []string
	for _, o := range ruleset.Objects {
		for kind, content := range o {
			if kind != "metainfo" {
				list = append(list, kind+" "+string(content))
			}
		}
	}
	return list
}
