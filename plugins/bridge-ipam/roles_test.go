package bridgeipam_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// reference builds the reference plugins, at the version that tools pins, beside a link to the plugin under
// test. The directory is a CNI_PATH.
var reference = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(binary), "cni")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	const plugins = "github.com/containernetworking/plugins/plugins/"
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir+"/", plugins+"main/bridge", plugins+"main/ptp", plugins+"ipam/host-local", plugins+"ipam/static")
	cmd.Dir = "../../tools"
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &exec.Error{Name: string(out), Err: err}
	}
	// host-local under a name that we do not know: an IPAM plugin with leases that can be looked at.
	if err := os.Link(filepath.Join(dir, "host-local"), filepath.Join(dir, "foreign")); err != nil {
		return "", err
	}
	return dir, os.Link(binary, filepath.Join(dir, "bridge-ipam"))
})

func cniPath(t testing.TB) string {
	t.Helper()
	nettest.RequireRoot(t)
	dir, err := reference()
	ok(t, err)
	return dir
}

// answered expects success and returns the result.
func (n *node) answered(c call) result {
	n.t.Helper()
	a := n.run(c)
	var r result
	if a.code != 0 || json.Unmarshal([]byte(a.stdout), &r) != nil {
		n.t.Fatalf("%s %s: exit %d: %s%s", c.cmd, c.id, a.code, a.stdout, a.stderr)
	}
	r.raw = a.stdout
	return r
}

// foreign is a network whose addresses another plugin gives, and the directory of that one's leases.
func (n *node) foreign(changes map[string]any) (conf, leases string) {
	ipam := ranges("10.66.0.0/29", "fd66::/64")
	ipam["type"], ipam["dataDir"] = "foreign", n.data
	ipam["routes"] = []any{map[string]any{"dst": "10.9.0.0/16"}, map[string]any{"dst": "::/0"}}
	all := map[string]any{"ipam": ipam}
	for k, v := range changes {
		all[k] = v
	}
	return n.conf(all), filepath.Join(n.data, "net")
}

// given lists the addresses that the foreign plugin has given.
func givenBy(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"10.*", "fd*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		ok(t, err)
		out = append(out, found...)
	}
	return out
}

// TestForeignIPAM: all operations are passed on, and every way out gives its addresses back.
func TestForeignIPAM(t *testing.T) {
	for _, mode := range []string{"bridge", "routed"} {
		t.Run(mode, func(t *testing.T) {
			n := newNode(t)
			path := cniPath(t)
			out := n.outside(1500)
			changes := map[string]any{"mode": mode}
			links := []string{"uplink", "br0"}
			if mode == "routed" {
				changes["bridge"], links = nil, links[:1]
			}
			conf, leases := n.foreign(changes)
			pod, pod2 := nettest.NewNS(t), nettest.NewNS(t)
			add := call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: conf, path: path}
			r := n.answered(add)
			add2 := add
			add2.id, add2.netns = "d", pod2
			r2 := n.answered(add2)
			if len(r.IPs) != 2 || r.addr(0).String() != "10.66.0.2" || r.IPs[0].Interface == nil || len(r.Routes) < 2 || len(givenBy(t, leases)) != 4 {
				t.Errorf("%s, leases %v", r.raw, givenBy(t, leases))
			}
			for f := range 2 {
				if seen := hello(t, pod, pod2, r2.addr(f)); seen.Addr() != r.addr(f) {
					t.Errorf("pod to pod: seen as %s, is %s", seen, r.addr(f))
				}
			}
			if seen := hello(t, pod, out, netip.MustParseAddr("fd99::9")); seen.Addr().String() != "fd99::1" {
				t.Errorf("not masqueraded: %s", seen)
			}
			check := call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw), path: path}
			n.quiet(check)
			n.quiet(call{cmd: "STATUS", conf: conf, path: path})
			n.refused(add, 999, "exists")
			ok(t, os.RemoveAll(givenBy(t, leases)[0]))
			ok(t, os.RemoveAll(givenBy(t, leases)[1]))
			n.refused(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw), path: path + "x"}, 7, "foreign", "CNI_PATH")

			// The link is gone before DEL: the other plugin hears of it all the same.
			at(t, pod2, func(h *netutil.Handle) { ok(t, h.DeleteLink("eth0")) })
			for _, id := range []string{"c", "d", "d", "never"} {
				n.quiet(call{cmd: "DEL", id: id, ifName: "eth0", conf: conf, path: path})
			}
			if left := givenBy(t, leases); len(left) != 0 {
				t.Errorf("the other plugin still holds %v", left)
			}
			n.clean(links...)
		})
	}
}

// TestForeignIPAMUndo: a step that fails after the other plugin gave an address gives it back.
func TestForeignIPAMUndo(t *testing.T) {
	n := newNode(t)
	path := cniPath(t)
	pod := nettest.NewNS(t)
	conf, leases := n.foreign(nil)
	at(t, n.ns, func(h *netutil.Handle) { // the gateway does not fit
		ok(t, h.AddBridge("br0", nil, 0))
		br, err := h.Link("br0")
		ok(t, err)
		ok(t, h.AddAddr(br.Index, netip.MustParsePrefix("10.1.1.1/24")))
	})
	add := call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: conf, path: path}
	n.refused(add, 999, "forceAddress")
	if left := givenBy(t, leases); len(left) != 0 {
		t.Errorf("the other plugin still holds %v", left)
	}
	n.clean("br0")
	// Its own errors come with their code, and nothing is left either.
	at(t, n.ns, func(h *netutil.Handle) { ok(t, h.DeleteLink("br0")) })
	bad := strings.ReplaceAll(conf, "10.66.0.0/29", "10.66.0.1/29")
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: bad, path: path}, 999, "foreign", "host bits")
	n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: conf, path: "/nonexistent"}, 7, `"foreign"`, "CNI_PATH")
	n.refused(call{cmd: "STATUS", conf: conf, path: "/nonexistent"}, 50, `"foreign"`)
	n.clean("br0")
	// DEL cannot do all without the other plugin, and says so, but does its own part.
	n.answered(add)
	n.refused(call{cmd: "DEL", id: "c", ifName: "eth0", conf: conf, path: "/nonexistent"}, 7, `"foreign"`)
	n.clean("br0")
	n.quiet(call{cmd: "DEL", id: "c", ifName: "eth0", conf: conf, path: path})
	// GC clears our part and asks the other plugin.
	n.answered(add)
	gc := n.gc(nil)
	conf, _ = n.foreign(map[string]any{"cni.dev/valid-attachments": []any{}})
	gc.conf, gc.path = conf, path
	n.quiet(gc)
	n.clean()
}

// TestForeignIPAMKilled: an ADD that was killed after the other plugin gave addresses leaves a link that works
// and no lease of ours. The same ADD clears both, at ours and at the other plugin.
func TestForeignIPAMKilled(t *testing.T) {
	n := newNode(t)
	conf, leases := n.foreign(nil)
	add := call{cmd: "ADD", id: "c", ifName: "eth0", netns: nettest.NewNS(t), conf: conf, path: cniPath(t)}
	n.answered(add)
	records, err := filepath.Glob(filepath.Join(n.data, "net", "rec", "*-*"))
	ok(t, err)
	for _, path := range records {
		ok(t, os.Remove(path))
	}
	n.answered(add)
	if held := givenBy(t, leases); len(held) != 2 {
		t.Errorf("the other plugin holds %v", held)
	}
	n.quiet(call{cmd: "DEL", id: "c", ifName: "eth0", conf: conf, path: add.path})
	n.clean("br0")
}

// TestForeignIPAMNonsense: what another plugin says is checked like any input.
func TestForeignIPAMNonsense(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	conf := n.conf(map[string]any{"ipam": map[string]any{"type": "odd"}})
	for name, c := range map[string]struct {
		says string
		code uint
		want string
	}{
		"nothing":     {"true", 6, "result of odd"},
		"not JSON":    {"echo hello", 6, "result of odd"},
		"a list":      {"echo []", 6, "result of odd"},
		"no address":  {`echo '{"cniVersion":"1.1.0"}'`, 999, "has no address"},
		"bad address": {`echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.300/8"}]}'`, 7, "result of odd"},
		"version":     {`echo '{"cniVersion":"9.9.9"}'`, 7, "result of odd"},
		"exit":        {"echo why >&2; exit 3", 999, "why"},
		"its error":   {`echo '{"code":123,"msg":"its own words"}'; exit 1`, 123, "IPAM plugin odd, ADD: its own words"},
	} {
		t.Run(name, func(t *testing.T) {
			script := "#!/bin/sh\n[ \"$CNI_COMMAND\" = DEL ] && exit 0\n" + c.says + "\n"
			ok(t, os.WriteFile(filepath.Join(dir, "odd"), []byte(script), 0o755))
			n.refused(call{cmd: "ADD", id: "c", ifName: "eth0", netns: nettest.NewNS(t), conf: conf, path: "/nonexistent:" + dir}, c.code, c.want)
			n.clean("br0")
		})
	}
}

// TestStaticIPAM: addresses of the reference plugin static, which names no gateway here.
func TestStaticIPAM(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"isGateway": false, "ipam": map[string]any{
		"type": "static", "addresses": []any{map[string]any{"address": "10.55.0.7/24"}},
		"routes": []any{map[string]any{"dst": "10.9.0.0/16"}}, "dns": map[string]any{"nameservers": []any{"10.55.0.1"}},
	}})
	path, pod := cniPath(t), nettest.NewNS(t)
	r := n.answered(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: conf, path: path})
	if r.addr(0).String() != "10.55.0.7" || len(r.DNS.Nameservers) != 1 || len(r.Routes) != 1 {
		t.Errorf("%s", r.raw)
	}
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw), path: path})
	// Its link is lost without DEL, and it comes again: the note of the first time is in nobody's way.
	at(t, pod, func(h *netutil.Handle) { ok(t, h.DeleteLink("eth0")) })
	n.answered(call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, conf: conf, path: path})
	n.quiet(call{cmd: "DEL", id: "c", ifName: "eth0", conf: conf, path: path})
	n.clean("br0")
}

// TestUnderTheReference: rule 19. The reference plugins bridge and ptp make the link, this one the addresses.
func TestUnderTheReference(t *testing.T) {
	for _, main := range []string{"bridge", "ptp"} {
		t.Run(main, func(t *testing.T) {
			n := newNode(t)
			path := cniPath(t)
			ipam := ranges("10.44.0.0/29", "fd44::/64")
			ipam["type"], ipam["routes"] = "bridge-ipam", []any{map[string]any{"dst": "0.0.0.0/0"}}
			conf := n.conf(map[string]any{"type": main, "ipMasq": false, "mtu": 1400, "ipam": ipam})
			pods := []string{nettest.NewNS(t), nettest.NewNS(t)}
			var results []result
			for i, pod := range pods {
				c := call{cmd: "ADD", id: string(rune('a' + i)), ifName: "eth0", netns: pod, conf: conf, path: path, program: filepath.Join(path, main)}
				results = append(results, n.answered(c))
			}
			for f := range 2 {
				if seen := hello(t, pods[0], pods[1], results[1].addr(f)); seen.Addr() != results[0].addr(f) {
					t.Errorf("seen as %s, is %s", seen, results[0].addr(f))
				}
			}
			run := func(cmd, id, pod string, r result) {
				n.quiet(call{cmd: cmd, id: id, ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw), path: path, program: filepath.Join(path, main)})
			}
			run("CHECK", "a", pods[0], results[0])
			run("DEL", "a", pods[0], results[0])
			run("DEL", "a", pods[0], results[0])
			if _, _, leases := n.left(); len(leases) != 4 { // of b: a record, a link to it and two addresses
				t.Errorf("leases %v", leases)
			}
			run("DEL", "b", pods[1], results[1])
			if _, chains, leases := n.left(); len(chains)+len(leases) != 0 {
				t.Errorf("left: %v %v", chains, leases)
			}
		})
	}
}

// TestAddressesOnly: the operations of an IPAM plugin by themselves. A MAC, VLAN or bridge of the plugin that
// makes the link is that one's.
func TestAddressesOnly(t *testing.T) {
	n := newNode(t)
	ipam := ranges("10.44.0.0/29", "fd44::/64")
	ipam["type"], ipam["routes"] = "bridge-ipam", []any{map[string]any{"dst": "0.0.0.0/0", "mtu": 1300}}
	conf := n.conf(map[string]any{"type": "macvlan", "mode": "vepa", "master": "eth9", "mtu": "x", "vlan": "y", "ipam": ipam})
	pod := nettest.NewNS(t)
	add := call{cmd: "ADD", id: "c", ifName: "net1", netns: pod, conf: conf}
	r := n.answered(add)
	if len(r.Interfaces) != 0 || len(r.IPs) != 2 || r.IPs[0].Interface != nil || r.IPs[0].Gateway.String() != "10.44.0.1" || len(r.Routes) != 1 {
		t.Errorf("%s", r.raw)
	}
	if again := n.answered(add); again.raw != r.raw { // killed before the caller could use it
		t.Errorf("%s and %s", r.raw, again.raw)
	}
	add.args = "IP=10.44.0.5"
	if r = n.answered(add); r.addr(0).String() != "10.44.0.5" { // another wish is another lease
		t.Errorf("%s", r.raw)
	}
	n.quiet(call{cmd: "STATUS", conf: conf})
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "net1", netns: pod, conf: withPrev(t, conf, r.raw)})
	n.refused(call{cmd: "CHECK", id: "d", ifName: "net1", netns: pod, conf: withPrev(t, conf, r.raw)}, 999, "lease of d net1")
	// The same store as in the other roles: nothing is given twice.
	own := n.add("own", nettest.NewNS(t), n.conf(map[string]any{"ipam": ranges("10.44.0.0/29", "fd44::/64")}))
	if own.addr(0) == r.addr(0) || own.addr(1) == r.addr(1) {
		t.Errorf("given twice: %s", own.raw)
	}
	n.del("own", conf)
	n.quiet(call{cmd: "DEL", id: "c", ifName: "eth0", conf: conf}) // another interface
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "net1", netns: pod, conf: withPrev(t, conf, r.raw)})
	gc := strings.Replace(conf, `"name"`, `"cni.dev/valid-attachments":[{"containerID":"c","ifname":"net1"}],"name"`, 1)
	n.quiet(call{cmd: "GC", conf: gc})
	n.quiet(call{cmd: "CHECK", id: "c", ifName: "net1", netns: pod, conf: withPrev(t, conf, r.raw)})
	n.quiet(call{cmd: "DEL", id: "c", ifName: "net1", conf: conf})
	n.clean("br0")
}

// TestAddressesOfTheDead: under another plugin an exhausted range takes back what no namespace can hold.
func TestAddressesOfTheDead(t *testing.T) {
	n := newNode(t)
	ipam := ranges("10.44.0.0/30")
	ipam["type"] = "bridge-ipam"
	conf := n.conf(map[string]any{"type": "macvlan", "ipam": ipam})
	pod := nettest.NewNS(t)
	n.answered(call{cmd: "ADD", id: "a", ifName: "net1", netns: pod, conf: conf})
	// The pin is gone, a process lives on in the namespace: it has the address.
	sleep := exec.Command("/bin/sleep", "60")
	nettest.In(t, pod, sleep.Start)
	nettest.DeleteNS(t, pod)
	add := call{cmd: "ADD", id: "b", ifName: "net1", netns: nettest.NewNS(t), conf: conf}
	n.refused(add, 11, "no free address")
	ok(t, sleep.Process.Kill())
	_ = sleep.Wait()
	n.answered(add)
}

func parse(t testing.TB, raw string) result {
	t.Helper()
	var r result
	if err := json.Unmarshal([]byte(raw), &r); err != nil {
		t.Errorf("%v: %s", err, raw)
	}
	return r
}
