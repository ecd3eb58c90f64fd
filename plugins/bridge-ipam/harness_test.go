package bridgeipam_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
	bridgeipam "github.com/podwright/podwright/plugins/bridge-ipam"
)

// binary is the plugin under test, built once as it is released.
var binary string

func TestMain(m *testing.M) {
	if len(os.Args) == 0 { // Never. With the plugin in it this program changes with it, and go test knows an old result for one.
		os.Exit(bridgeipam.Main(bridgeipam.Process{}))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "bridge-ipam-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary = filepath.Join(dir, "bridge-ipam")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary,
			"github.com/podwright/podwright/cmd/bridge-ipam")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is a host of its own: a network namespace with nothing in it, and a lease directory. All of it is
// gone when the test ends.
type node struct {
	t    testing.TB
	ns   string
	data string
}

func newNode(t testing.TB) *node {
	t.Helper()
	return &node{t: t, ns: nettest.NewNS(t), data: filepath.Join(t.TempDir(), "leases")}
}

// call is one run of the plugin.
type call struct {
	cmd, id, ifName, netns, args, conf string
	path                               string // CNI_PATH; "-" leaves it out
	program                            string // empty: the plugin under test
}

// answer is what came of it.
type answer struct {
	code           int // exit code
	stdout, stderr string
}

func (c call) env() []string {
	env := []string{"PATH="}
	for name, value := range map[string]string{
		"CNI_COMMAND": c.cmd, "CNI_CONTAINERID": c.id, "CNI_IFNAME": c.ifName, "CNI_NETNS": c.netns, "CNI_ARGS": c.args,
	} {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	switch c.path {
	case "-":
	case "":
		env = append(env, "CNI_PATH=/opt/cni/bin")
	default:
		env = append(env, "CNI_PATH="+c.path)
	}
	return env
}

// start runs the plugin on the node, without a PATH to find any other program in.
func (n *node) start(c call) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	n.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(cmp.Or(c.program, binary))
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.env(), strings.NewReader(c.conf), &out, &errs
	nettest.In(n.t, n.ns, cmd.Start)
	return cmd, &out, &errs
}

func (n *node) run(c call) answer {
	n.t.Helper()
	cmd, out, errs := n.start(c)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.t.Fatal(err)
	}
	return answer{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// conf is a network with one or more keys changed; nil removes a key.
func (n *node) conf(changes map[string]any) string {
	n.t.Helper()
	c := map[string]any{
		"cniVersion": "1.1.0", "name": "net", "type": "bridge-ipam", "bridge": "br0", "isGateway": true, "ipMasq": true,
		"ipam": map[string]any{
			"type":   "host-local",
			"ranges": []any{[]any{map[string]any{"subnet": "10.77.0.0/24"}}, []any{map[string]any{"subnet": "fd77::/64"}}},
			"routes": []any{map[string]any{"dst": "0.0.0.0/0"}, map[string]any{"dst": "::/0"}},
		},
	}
	for key, value := range changes {
		if value == nil {
			delete(c, key)
		} else {
			c[key] = value
		}
	}
	if ipam, is := c["ipam"].(map[string]any); is && ipam["dataDir"] == nil {
		ipam["dataDir"] = n.data
	}
	data, err := json.Marshal(c)
	ok(n.t, err)
	return string(data)
}

// ranges is an ipam section with one set of one range for each subnet.
func ranges(subnets ...string) map[string]any {
	var sets []any
	for _, s := range subnets {
		sets = append(sets, []any{map[string]any{"subnet": s}})
	}
	return map[string]any{"type": "host-local", "ranges": sets}
}

// result is a CNI result as far as tests look.
type result struct {
	CNIVersion string `json:"cniVersion"`
	Interfaces []struct{ Name, Mac, Sandbox string }
	IPs        []struct {
		Address   netip.Prefix
		Gateway   netip.Addr
		Interface *int
	}
	Routes []struct {
		Dst netip.Prefix
		GW  netip.Addr
	}
	DNS struct{ Nameservers, Search, Options []string }
	raw string
}

func (r result) addr(i int) netip.Addr { return r.IPs[i].Address.Addr() }

// add expects success.
func (n *node) add(id, netns, conf string) result {
	n.t.Helper()
	a := n.run(call{cmd: "ADD", id: id, ifName: "eth0", netns: netns, conf: conf})
	if a.code != 0 {
		n.t.Fatalf("ADD %s: exit %d: %s%s", id, a.code, a.stdout, a.stderr)
	}
	var r result
	if err := json.Unmarshal([]byte(a.stdout), &r); err != nil {
		n.t.Fatalf("ADD %s: %v: %s", id, err, a.stdout)
	}
	r.raw = a.stdout
	return r
}

// quiet expects success without a word.
func (n *node) quiet(c call) {
	n.t.Helper()
	if a := n.run(c); a.code != 0 || a.stdout != "" || a.stderr != "" {
		n.t.Errorf("%s %s: exit %d: %s%s", c.cmd, c.id, a.code, a.stdout, a.stderr)
	}
}

func (n *node) del(id, conf string) {
	n.t.Helper()
	n.quiet(call{cmd: "DEL", id: id, ifName: "eth0", conf: conf})
}

// refused expects an error object with a code and with each of the words in its message.
func (n *node) refused(c call, code uint, words ...string) {
	n.t.Helper()
	a := n.run(c)
	var e struct {
		CNIVersion string
		Code       uint
		Msg        string
		Details    string
	}
	err := json.Unmarshal([]byte(a.stdout), &e)
	if a.code == 0 || err != nil || e.Code != code || e.CNIVersion == "" || e.Msg == "" {
		n.t.Errorf("%s: exit %d, %v, want code %d: %s%s", c.cmd, a.code, err, code, a.stdout, a.stderr)
		return
	}
	for _, w := range words {
		if !strings.Contains(e.Msg+e.Details, w) {
			n.t.Errorf("%s: %q is not in %q", c.cmd, w, e.Msg)
		}
	}
}

// withPrev adds a prevResult to a configuration.
func withPrev(t testing.TB, conf, prev string) string {
	t.Helper()
	var c map[string]any
	ok(t, json.Unmarshal([]byte(conf), &c))
	c["prevResult"] = json.RawMessage(prev)
	data, err := json.Marshal(c)
	ok(t, err)
	return string(data)
}

// at opens a handle on a namespace and hands it to f.
func at(t testing.TB, path string, f func(h *netutil.Handle)) {
	t.Helper()
	ns, err := netutil.OpenNS(path)
	ok(t, err)
	defer func() { _ = ns.Close() }()
	h, err := ns.Handle()
	ok(t, err)
	defer h.Close()
	f(h)
}

// unmasquerade takes the pods out of the masquerade of the node's one network. Unlike rules that are gone as a whole,
// which every operation brings back, this is a change that CHECK has to find.
func (n *node) unmasquerade() {
	n.t.Helper()
	_, chains, _ := n.left()
	nettest.Output(n.t, n.ns, "nft", "flush", "set", "inet", "bridge-ipam", chains[0]+"-subnets4")
}

// left lists what there is on the node: links but lo, nftables chains, leases.
func (n *node) left() (links, chains, leases []string) {
	n.t.Helper()
	at(n.t, n.ns, func(h *netutil.Handle) {
		list, err := h.Links()
		ok(n.t, err)
		for _, l := range list {
			if l.Name != "lo" {
				links = append(links, l.Name)
			}
		}
	})
	nettest.In(n.t, n.ns, func() error {
		nft, err := netutil.OpenNft("bridge-ipam")
		if err != nil {
			return err
		}
		chains, err = nft.Chains()
		return errors.Join(err, nft.Close())
	})
	for _, kind := range []string{"rec", "at", "ip", "port"} {
		found, err := filepath.Glob(filepath.Join(n.data, "*", kind, "*"))
		ok(n.t, err)
		leases = append(leases, found...)
	}
	return links, chains, leases
}

// clean expects that nothing is left but the links named.
func (n *node) clean(links ...string) {
	n.t.Helper()
	l, c, s := n.left()
	if strings.Join(l, " ") != strings.Join(links, " ") || len(c) != 0 || len(s) != 0 {
		n.t.Errorf("left: links %v (want %v), chains %v, leases %v", l, links, c, s)
	}
}

// hello sends a datagram from one namespace to an address in another and returns the sender as it was
// seen there. The address may be one of the receiver's only.
func hello(t testing.TB, from, to string, addr netip.Addr) netip.AddrPort {
	t.Helper()
	var server, client net.PacketConn
	nettest.In(t, to, func() (err error) {
		server, err = net.ListenPacket("udp", net.JoinHostPort(addr.String(), "0"))
		return err
	})
	defer func() { _ = server.Close() }()
	nettest.In(t, from, func() (err error) {
		client, err = net.ListenPacket("udp", ":0")
		return err
	})
	defer func() { _ = client.Close() }()
	if _, err := client.WriteTo([]byte("hello"), server.LocalAddr()); err != nil {
		t.Errorf("to %s: %v", addr, err)
		return netip.AddrPort{}
	}
	ok(t, server.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, sender, err := server.ReadFrom(make([]byte, 16))
	if err != nil {
		t.Errorf("to %s: %v", addr, err)
		return netip.AddrPort{}
	}
	seen := netip.MustParseAddrPort(sender.String())
	return netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port())
}

// elapsed collects durations.
type elapsed []time.Duration

func (e *elapsed) time(f func()) {
	start := time.Now()
	f()
	*e = append(*e, time.Since(start))
}

// median is in milliseconds.
func (e elapsed) median() float64 {
	slices.Sort(e)
	return float64(e[len(e)/2].Microseconds()) / 1000
}
