package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/podwright/podwright/test/cni/lab"
)

// inventory is all that attachments have on a node: each list is sorted.
type inventory struct {
	links, leases, records, elements []string
	masquerade                       bool
}

// takeInventory looks at the kernel and at the lease directory, by nothing of the plugin's own.
func takeInventory(t testing.TB, n *lab.Node) inventory {
	t.Helper()
	var inv inventory
	links, err := linksOf(n.NS)
	must(t, err)
	for _, l := range links {
		if l.Info.Kind == "veth" && l.Name != lab.Uplink {
			inv.links = append(inv.links, l.Name)
		}
	}
	for _, kind := range []string{"ip", "rec", "at"} {
		entries, err := filepath.Glob(filepath.Join(n.Dir, "leases/*", kind, "*"))
		must(t, err)
		for _, e := range entries {
			if _, err := os.Stat(e); err != nil {
				continue // a link to nothing means nothing
			}
			if kind == "ip" {
				inv.leases = append(inv.leases, filepath.Base(e))
			} else {
				inv.records = append(inv.records, kind+"/"+filepath.Base(e))
			}
		}
	}
	inv.elements, inv.masquerade = elements(t, n)
	for _, list := range [][]string{inv.links, inv.leases, inv.records, inv.elements} {
		slices.Sort(list)
	}
	return inv
}

// elements lists the addresses that host ports lead to, and says whether there is masquerade.
func elements(t testing.TB, n *lab.Node) (list []string, masquerade bool) {
	t.Helper()
	out, err := n.Run("nft", "-j", "list", "ruleset")
	must(t, err)
	var ruleset struct {
		Objects []struct {
			Map *struct {
				Name string   `json:"name"`
				Elem [][2]any `json:"elem"` // key and value
			} `json:"map"`
			Chain *struct {
				Name string `json:"name"`
			} `json:"chain"`
		} `json:"nftables"`
	}
	must(t, json.Unmarshal([]byte(out), &ruleset))
	for _, o := range ruleset.Objects {
		if o.Chain != nil && strings.HasPrefix(o.Chain.Name, "masq-") {
			masquerade = true
		}
		if o.Map == nil || o.Map.Name != "hostport-any4" {
			continue
		}
		for _, e := range o.Map.Elem {
			value, _ := e[1].(map[string]any)
			if addrAndPort, _ := value["concat"].([]any); len(addrAndPort) == 2 {
				list = append(list, fmt.Sprint(addrAndPort[0]))
			}
		}
	}
	return list, masquerade
}

// expect compares the inventory with the attachments that there should be, by their results.
func (inv inventory) expect(t testing.TB, when string, live map[string]attached) {
	t.Helper()
	var links, addrs []string
	for _, a := range live {
		links, addrs = append(links, a.hostLink), append(addrs, a.addr.String())
	}
	slices.Sort(links)
	slices.Sort(addrs)
	if len(slices.Compact(slices.Clone(addrs))) != len(live) {
		t.Errorf("%s: an address was given out twice: %v", when, addrs)
	}
	for _, c := range []struct {
		what      string
		got, want []string
	}{{"links", inv.links, links}, {"leases", inv.leases, addrs}, {"elements", inv.elements, addrs}} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %d %s, want %d; too many: %v, missing: %v", when, len(c.got), c.what, len(c.want), less(c.got, c.want), less(c.want, c.got))
		}
	}
	if inv.masquerade != (len(live) > 0) {
		t.Errorf("%s: masquerade %t beside %d attachments", when, inv.masquerade, len(live))
	}
	if len(inv.records) != 2*len(live) {
		t.Errorf("%s: %d records and names of attachments, want %d of each", when, len(inv.records), len(live))
	}
}

// less is what is in a and not in b.
func less(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// attached is what a test keeps of a successful ADD.
type attached struct {
	lab.Attachment
	ns       *lab.NS
	addr     netip.Addr
	hostLink string
}

// add attaches a pod.
func add(n *lab.Node, c lab.Chain, id string, ns *lab.NS, started ...func(*exec.Cmd)) (attached, error) {
	a := attached{Attachment: lab.Attachment{ID: id, NetNS: ns.Path(), Runtime: hostPort(id)}, ns: ns}
	var err error
	for _, f := range started {
		a.Started = f
	}
	if a.Prev, err = n.Add(c, a.Attachment); err != nil {
		return a, err
	}
	a.Started = nil
	var r struct {
		Interfaces []struct{ Name string }
		IPs        []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(a.Prev, &r); err != nil {
		return a, err
	}
	if len(r.IPs) != 1 || len(r.Interfaces) != 3 {
		return a, fmt.Errorf("result of %s: %d addresses, %d interfaces", id, len(r.IPs), len(r.Interfaces))
	}
	a.addr, a.hostLink = r.IPs[0].Address.Addr(), r.Interfaces[1].Name
	return a, nil
}

var (
	portsOf  sync.Map     // by id
	lastPort atomic.Int32 // of those given to ids
)

// hostPort is a host port of each pod's own, the same whenever it is asked for.
func hostPort(id string) lab.Conf {
	port, known := portsOf.Load(id)
	if !known {
		port, _ = portsOf.LoadOrStore(id, 10000+lastPort.Add(1))
	}
	return lab.Conf{"portMappings": []any{lab.Conf{"hostPort": port, "containerPort": 80, "protocol": "tcp"}}}
}

// network is ours with one range, masquerade and host ports; promise is the runtime's that it destroys the namespace after DEL.
func network(n *lab.Node, subnet string) lab.Chain {
	return lab.Chain{Name: "net1", Dir: ours, Plugins: []lab.Conf{{
		"type": "bridge-ipam", "bridge": bridgeName, "isGateway": true, "ipMasq": true,
		"capabilities": lab.Conf{promise: true, "portMappings": true},
		"ipam": lab.Conf{"type": "host-local", "dataDir": filepath.Join(n.Dir, "leases"),
			"ranges": []any{[]any{lab.Conf{"subnet": subnet}}}, "routes": []any{lab.Conf{"dst": "0.0.0.0/0"}}},
	}}}
}

const promise = "io.podwright.netns-destroyed"
