package bridgeipam_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// ip runs iproute2 in a namespace: tests alter with a program that is not ours.
func ip(t testing.TB, ns string, args ...string) {
	t.Helper()
	cmd := exec.Command("ip", args...)
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, out
	nettest.In(t, ns, cmd.Start)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// TestCheckFindsChanges: rule 8. Each thing that can be altered is found, and named; unaltered is success.
func TestCheckFindsChanges(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(n *node, pod string, r result)
		want  string
	}{
		"address gone": {func(n *node, pod string, r result) {
			ip(n.t, pod, "addr", "del", r.IPs[0].Address.String(), "dev", "eth0")
		}, "address 10.77.0.2/24"},
		"IPv6 address": {func(n *node, pod string, r result) {
			ip(n.t, pod, "addr", "del", r.IPs[1].Address.String(), "dev", "eth0")
		}, "address fd77::2/64"},
		"prefix length": {func(n *node, pod string, r result) {
			ip(n.t, pod, "addr", "del", r.IPs[0].Address.String(), "dev", "eth0")
			ip(n.t, pod, "addr", "add", "10.77.0.2/16", "dev", "eth0")
		}, "address 10.77.0.2/24"},
		"route gone":    {func(n *node, pod string, _ result) { ip(n.t, pod, "route", "del", "default") }, "route to 0.0.0.0/0"},
		"other gateway": {func(n *node, pod string, _ result) { ip(n.t, pod, "route", "replace", "default", "via", "10.77.0.9") }, "route to 0.0.0.0/0"},
		"IPv6 route":    {func(n *node, pod string, _ result) { ip(n.t, pod, "-6", "route", "del", "default") }, "route to ::/0"},
		"route MTU": {func(n *node, pod string, _ result) {
			ip(n.t, pod, "route", "change", "10.9.0.0/16", "via", "10.77.0.1", "mtu", "900")
		}, "route to 10.9.0.0/16"},
		"MAC": {func(n *node, pod string, _ result) {
			ip(n.t, pod, "link", "set", "eth0", "address", "02:00:00:00:00:99")
		}, "MAC is 02:00:00:00:00:99"},
		"MTU":      {func(n *node, pod string, _ result) { ip(n.t, pod, "link", "set", "eth0", "mtu", "1400") }, "MTU is 1400"},
		"down":     {func(n *node, pod string, _ result) { ip(n.t, pod, "link", "set", "eth0", "down") }, "eth0: is down"},
		"renamed":  {func(n *node, pod string, _ result) { ip(n.t, pod, "link", "set", "eth0", "name", "eth9") }, "find link eth0"},
		"host MTU": {func(n *node, _ string, r result) { ip(n.t, n.ns, "link", "set", r.Interfaces[1].Name, "mtu", "1400") }, "MTU is 1400"},
		"host MAC": {func(n *node, _ string, r result) {
			ip(n.t, n.ns, "link", "set", r.Interfaces[1].Name, "address", "02:00:00:00:00:98")
		}, "02:00:00:00:00:98"},
		"host down": {func(n *node, _ string, r result) { ip(n.t, n.ns, "link", "set", r.Interfaces[1].Name, "down") }, "is down"},
		"no master": {func(n *node, _ string, r result) { ip(n.t, n.ns, "link", "set", r.Interfaces[1].Name, "nomaster") }, "not on bridge br0"},
		"other master": {func(n *node, _ string, r result) {
			ip(n.t, n.ns, "link", "add", "br1", "type", "bridge")
			ip(n.t, n.ns, "link", "set", r.Interfaces[1].Name, "master", "br1")
		}, "not on bridge br0"},
		"hairpin": {func(n *node, _ string, r result) {
			ip(n.t, n.ns, "link", "set", r.Interfaces[1].Name, "type", "bridge_slave", "hairpin", "on")
		}, "hairpin mode is true"},
		"bridge MAC":     {func(n *node, _ string, _ result) { ip(n.t, n.ns, "link", "set", "br0", "address", "02:00:00:00:00:97") }, "02:00:00:00:00:97"},
		"bridge down":    {func(n *node, _ string, _ result) { ip(n.t, n.ns, "link", "set", "br0", "down") }, "br0"},
		"gateway":        {func(n *node, _ string, _ result) { ip(n.t, n.ns, "addr", "del", "10.77.0.1/24", "dev", "br0") }, "gateway 10.77.0.1/24"},
		"bridge removed": {func(n *node, _ string, _ result) { ip(n.t, n.ns, "link", "del", "br0") }, "find link br0"},
		"masquerade":     {func(n *node, _ string, _ result) { n.unmasquerade() }, "masquerade"},
		"lease":          {func(n *node, _ string, _ result) { ok(n.t, os.RemoveAll(n.data)) }, "lease of c eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			ipam := ranges("10.77.0.0/24", "fd77::/64")
			ipam["routes"] = []any{map[string]any{"dst": "10.9.0.0/16", "mtu": 1300}}
			conf := n.conf(map[string]any{"ipam": ipam, "isDefaultGateway": true, "mtu": 1450})
			pod := nettest.NewNS(t)
			r := n.add("c", pod, conf)
			check := call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)}
			n.quiet(check)
			c.alter(n, pod, r)
			n.refused(check, 999, c.want)
			n.refused(check, 999, "eth0 of c") // CHECK altered nothing itself
		})
	}
}

// TestCheckNeedsPrevResult is rule 8 for the input: without the result of ADD, or with one of another pod.
func TestCheckNeedsPrevResult(t *testing.T) {
	n := newNode(t)
	conf := n.conf(nil)
	pod, other := nettest.NewNS(t), nettest.NewNS(t)
	n.add("a", pod, conf)
	b := n.add("b", other, conf)
	check := call{cmd: "CHECK", id: "a", ifName: "eth0", netns: pod}
	for _, c := range []struct {
		conf string
		code uint
		want string
	}{
		{conf, 7, "prevResult"},
		{withPrev(t, conf, "null"), 7, "prevResult"},
		{withPrev(t, conf, `{"cniVersion":"1.1.0"}`), 7, "prevResult"},
		{withPrev(t, conf, b.raw), 999, "lease"},
	} {
		check.conf = c.conf
		n.refused(check, c.code, c.want)
	}
}

// TestCommandsOfVersions: rule 9.
func TestCommandsOfVersions(t *testing.T) {
	n := newNode(t)
	pod := nettest.NewNS(t)
	for _, c := range []struct{ cmd, version string }{
		{"CHECK", "0.1.0"}, {"CHECK", "0.2.0"}, {"CHECK", "0.3.0"}, {"CHECK", "0.3.1"}, {"GC", "0.4.0"}, {"GC", "1.0.0"}, {"STATUS", "1.0.0"},
		{"ADD", "0.0.9"}, {"ADD", "1.2.0"}, {"DEL", "9.0.0"},
	} {
		conf := n.conf(map[string]any{"cniVersion": c.version, "cni.dev/valid-attachments": []any{}})
		n.refused(call{cmd: c.cmd, id: "c", ifName: "eth0", netns: pod, conf: conf}, 1, c.version)
	}
	n.clean()
}

// TestStatus: rule 11. It is silent where ADD would work, and 50 with the reason where it would not.
func TestStatus(t *testing.T) {
	n := newNode(t)
	one := n.conf(map[string]any{"ipam": ranges("10.77.0.0/30")})
	status := func(conf string) call { return call{cmd: "STATUS", conf: conf} }
	n.quiet(status(one)) // before any ADD
	n.add("c", nettest.NewNS(t), one)
	n.refused(status(one), 50, "10.77.0.0/30", "no free address")
	n.del("c", one)
	n.quiet(status(one))

	file := filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, "/proc/nonexistent"} {
		bad := ranges("10.77.0.0/30")
		bad["dataDir"] = dir
		n.refused(status(n.conf(map[string]any{"ipam": bad})), 50, dir)
	}
	at(t, n.ns, func(h *netutil.Handle) { ok(t, h.AddVeth(loneVeth(t))) })
	n.refused(status(n.conf(map[string]any{"bridge": "dummy"})), 50, `bridge "dummy"`)
	n.refused(status(n.conf(map[string]any{"mtu": 1})), 7, "mtu 1")
}

// TestRouteKeys: rule 20. The keys of routes that are new in 1.1 reach the kernel, and results of 1.1 keep them.
func TestRouteKeys(t *testing.T) {
	n := newNode(t)
	ipam := ranges("10.77.0.0/24", "fd77::/64")
	ipam["routes"] = []any{
		map[string]any{"dst": "10.9.0.0/16", "gw": "10.77.0.9", "mtu": 1300, "advmss": 1200, "priority": 7, "table": 99},
		map[string]any{"dst": "fd99::/64", "mtu": 1290, "priority": 9},
		map[string]any{"dst": "10.8.0.0/16", "scope": 253},
	}
	conf := n.conf(map[string]any{"ipam": ipam})
	pod := nettest.NewNS(t)
	r := n.add("c", pod, conf)
	for _, want := range []string{`"mtu": 1300`, `"advmss": 1200`, `"priority": 7`, `"table": 99`, `"scope": 253`, `"mtu": 1290`} {
		if !strings.Contains(r.raw, want) {
			t.Errorf("%s is not in %s", want, r.raw)
		}
	}
	at(t, pod, func(h *netutil.Handle) {
		for _, want := range []netutil.Route{
			{Dst: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("10.77.0.9"), MTU: 1300, AdvMSS: 1200, Priority: 7, Table: 99},
			{Dst: netip.MustParsePrefix("fd99::/64"), Via: netip.MustParseAddr("fd77::1"), MTU: 1290, Priority: 9},
			{Dst: netip.MustParsePrefix("10.8.0.0/16"), Scope: 253},
		} {
			if has, err := h.HasRoute(want); !has || err != nil {
				t.Errorf("route %+v: %v, %v", want, has, err)
			}
			want.MTU++
			if has, err := h.HasRoute(want); want.MTU > 1 && (has || err != nil) {
				t.Errorf("route %+v is there: %v", want, err)
			}
		}
	})
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)})
}

// TestMTUInResult: rule 20. Interfaces of 1.1 say their MTU; results before 1.0 have no room for it.
func TestMTUInResult(t *testing.T) {
	n := newNode(t)
	for version, want := range map[string]bool{"1.1.0": true, "0.4.0": false} {
		conf := n.conf(map[string]any{"cniVersion": version, "mtu": 1440})
		pod := nettest.NewNS(t)
		r := n.add("c", pod, conf)
		if strings.Contains(r.raw, fmt.Sprintf(`"mtu": %d`, 1440)) != want {
			t.Errorf("%s: MTU in the result is to be %t: %s", version, want, r.raw)
		}
		n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)})
		n.del("c", conf)
	}
}
