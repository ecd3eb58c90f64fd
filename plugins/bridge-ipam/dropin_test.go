package bridgeipam_test

import (
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// show is what iproute2 prints in a namespace.
func show(t testing.TB, ns string, args ...string) string {
	t.Helper()
	var out strings.Builder
	cmd := exec.Command("ip", args...)
	cmd.Stdout = &out
	nettest.In(t, ns, cmd.Start)
	_ = cmd.Wait() // a link that is not there has nothing to show
	return out.String()
}

// seen is what can be told of a pod and its bridge without looking at names and MACs that are drawn.
func seen(t testing.TB, host, pod string, r result) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, ip := range r.IPs {
		out["ips"] += ip.Address.String() + " by " + ip.Gateway.String() + " on " + r.Interfaces[*ip.Interface].Name + "\n"
	}
	for _, route := range r.Routes {
		out["routes"] += route.Dst.String() + " by " + route.GW.String() + "\n"
	}
	out["dns"] = strings.Join(slices.Concat(r.DNS.Nameservers, r.DNS.Search, r.DNS.Options), " ")
	out["version"] = r.CNIVersion
	for _, family := range []string{"-4", "-6"} {
		lines := strings.Split(show(t, pod, family, "route"), "\n")
		slices.Sort(lines)
		out["pod's routes "+family] = strings.Join(lines, "\n")
		out["pod's table 99 "+family] = show(t, pod, family, "route", "show", "table", "99")
		out["pod's addresses "+family] = addresses(show(t, pod, family, "-o", "addr", "show", "dev", "eth0"))
		out["bridge's addresses "+family] = addresses(show(t, host, family, "-o", "addr", "show", "dev", r.Interfaces[0].Name))
	}
	link := show(t, host, "-d", "-o", "link", "show", "dev", r.Interfaces[1].Name)
	for _, word := range []string{"mtu", "hairpin", "master"} {
		_, after, _ := strings.Cut(link, " "+word+" ")
		out["host end's "+word], _, _ = strings.Cut(after, " ")
	}
	_, after, _ := strings.Cut(show(t, pod, "-o", "link", "show", "dev", "eth0"), " mtu ")
	out["pod's mtu"], _, _ = strings.Cut(after, " ")
	return out
}

// addresses keeps the addresses of what `ip -o addr` prints, without link-local ones.
func addresses(shown string) string {
	var out []string
	for field := range strings.FieldsSeq(shown) {
		if p, err := netip.ParsePrefix(field); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, field)
		}
	}
	return strings.Join(out, " ")
}

// TestDropIn: one row for each key of the reference plugins bridge and host-local. With the same configuration
// they and this plugin say and make the same. want is a part of what is seen, so that a row that does nothing
// in both is noticed.
func TestDropIn(t *testing.T) {
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	ok(t, os.WriteFile(resolv, []byte("; c\nnameserver 10.0.0.53\nnameserver fd00::53\ndomain d\nsearch a b\noptions ndots:2 rotate\n"), 0o600))
	ipam := func(keys map[string]any) map[string]any {
		out := map[string]any{"type": "host-local", "ranges": []any{[]any{map[string]any{"subnet": "10.77.0.0/24"}}}}
		maps.Copy(out, keys)
		return map[string]any{"ipam": out}
	}
	with := func(m map[string]any, keys map[string]any) map[string]any { maps.Copy(m, keys); return m }
	for key, c := range map[string]struct {
		changes map[string]any
		args    string
		want    [2]string // where, and a part of what is there
	}{
		"bridge":                 {map[string]any{"bridge": "other9"}, "", [2]string{"host end's master", "other9"}},
		"isGateway":              {map[string]any{"isGateway": false}, "", [2]string{"bridge's addresses -4", ""}},
		"isDefaultGateway":       {with(ipam(nil), map[string]any{"isDefaultGateway": true}), "", [2]string{"pod's routes -4", "default via 10.77.0.1"}},
		"mtu":                    {map[string]any{"mtu": 1400}, "", [2]string{"host end's mtu", "1400"}},
		"hairpinMode":            {map[string]any{"hairpinMode": true}, "", [2]string{"host end's hairpin", "on"}},
		"dns":                    {with(ipam(map[string]any{"resolvConf": resolv}), map[string]any{"dns": map[string]any{"options": []any{"x"}}}), "", [2]string{"dns", "x"}},
		"cniVersion":             {map[string]any{"cniVersion": "0.4.0"}, "", [2]string{"version", "0.4.0"}},
		"ipam.subnet":            {ipam(map[string]any{"ranges": nil, "subnet": "10.79.0.0/24"}), "", [2]string{"ips", "10.79.0.2/24 by 10.79.0.1 on eth0"}},
		"ipam.subnet and ranges": {with(ipam(map[string]any{"subnet": "10.79.0.0/24"}), map[string]any{"isGateway": false}), "", [2]string{"ips", "10.79.0.2/24 by 10.79.0.1 on eth0\n10.77.0.2/24"}},
		"ipam.rangeStart":        {ipam(map[string]any{"ranges": nil, "subnet": "10.79.0.0/24", "rangeStart": "10.79.0.100"}), "", [2]string{"ips", "10.79.0.100/24"}},
		"ipam.rangeEnd":          {ipam(map[string]any{"ranges": nil, "subnet": "10.79.0.0/24", "rangeStart": "10.79.0.7", "rangeEnd": "10.79.0.7"}), "", [2]string{"ips", "10.79.0.7/24"}},
		"ipam.gateway":           {ipam(map[string]any{"ranges": nil, "subnet": "10.79.0.0/24", "gateway": "10.79.0.2"}), "", [2]string{"ips", "10.79.0.1/24 by 10.79.0.2"}},
		"ipam.ranges": {ipam(map[string]any{"ranges": []any{
			[]any{map[string]any{"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.9", "rangeEnd": "10.77.0.9"}, map[string]any{"subnet": "10.78.0.0/24"}},
			[]any{map[string]any{"subnet": "fd77::/64", "gateway": "fd77::5"}},
		}}), "", [2]string{"ips", "10.77.0.9/24 by 10.77.0.1 on eth0\nfd77::1/64 by fd77::5"}},
		"ipam.routes": {ipam(map[string]any{"routes": []any{
			map[string]any{"dst": "10.9.0.0/16"}, map[string]any{"dst": "10.8.0.0/16", "gw": "10.77.0.9"}, map[string]any{"dst": "10.7.0.0/16", "table": 99, "priority": 7},
		}}), "", [2]string{"pod's table 99 -4", "10.7.0.0/16 via 10.77.0.1"}},
		"ipam.routes, IPv6": {ipam(map[string]any{"ranges": []any{[]any{map[string]any{"subnet": "fd77::/64"}}}, "routes": []any{map[string]any{"dst": "::/0"}}}),
			"", [2]string{"pod's routes -6", "default via fd77::1"}},
		"ipam.resolvConf":        {ipam(map[string]any{"resolvConf": resolv}), "", [2]string{"dns", "10.0.0.53 fd00::53 a b ndots:2 rotate"}},
		"runtimeConfig.ipRanges": {map[string]any{"isGateway": false, "runtimeConfig": map[string]any{"ipRanges": []any{[]any{map[string]any{"subnet": "10.66.0.0/24"}}}}}, "", [2]string{"ips", "10.66.0.2/24 by 10.66.0.1 on eth0\n10.77.0.2/24"}},
		"runtimeConfig.ips":      {map[string]any{"runtimeConfig": map[string]any{"ips": []any{"10.77.0.70/24", "fd77::70"}}}, "", [2]string{"ips", "10.77.0.70/24 by 10.77.0.1 on eth0\nfd77::70/64"}},
		"runtimeConfig.mac":      {map[string]any{"runtimeConfig": map[string]any{"mac": "02:00:00:00:00:07"}, "args": map[string]any{"cni": map[string]any{"mac": "02:00:00:00:00:08"}}}, "MAC=02:00:00:00:00:09;IgnoreUnknown=1", [2]string{"mac", "02:00:00:00:00:07"}},
		"args.cni.mac":           {map[string]any{"args": map[string]any{"cni": map[string]any{"mac": "02:00:00:00:00:08"}}}, "MAC=02:00:00:00:00:09;IgnoreUnknown=1", [2]string{"mac", "02:00:00:00:00:08"}},
		"CNI_ARGS MAC":           {nil, "MAC=02:00:00:00:00:09;IgnoreUnknown=1;K8S_POD_NAME=x", [2]string{"mac", "02:00:00:00:00:09"}},
		"args.cni.ips":           {map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []any{"10.77.0.71"}}}}, "", [2]string{"ips", "10.77.0.71/24"}},
		"CNI_ARGS IP":            {nil, "IP=10.77.0.72;IgnoreUnknown=true", [2]string{"ips", "10.77.0.72/24"}},
		"ipam is empty":          {map[string]any{"ipam": map[string]any{}, "isGateway": nil}, "", [2]string{"pod's addresses -4", ""}},
	} {
		t.Run(key, func(t *testing.T) {
			var both []map[string]string
			for _, program := range []string{"bridge", "bridge-ipam"} {
				n := newNode(t)
				pod := nettest.NewNS(t)
				keys := map[string]any{"type": program, "ipMasq": false, "ipv6LinkLocal": true}
				maps.Copy(keys, c.changes)
				add := call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, args: c.args, conf: n.conf(keys), path: cniPath(t)}
				add.program = filepath.Join(add.path, program)
				r := n.answered(add)
				got := seen(t, n.ns, pod, r)
				if strings.Contains(key, "mac") || strings.Contains(key, "MAC") {
					got["mac"] = r.Interfaces[2].Mac
				}
				both = append(both, got)
				if !strings.Contains(got[c.want[0]], c.want[1]) || c.want[1] == "" && got[c.want[0]] != "" {
					t.Errorf("%s: %s is %q, want %q in it", program, c.want[0], got[c.want[0]], c.want[1])
				}
				add.cmd, add.conf = "DEL", withPrev(t, add.conf, r.raw)
				n.quiet(add)
			}
			for what, reference := range both[0] {
				if both[1][what] != reference {
					t.Errorf("%s:\n%s\nof the reference:\n%s", what, both[1][what], reference)
				}
			}
		})
	}
}
