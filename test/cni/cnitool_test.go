package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwright/podwright/test/cni/lab"
)

// TestCnitool goes through the operations with the sample configuration, as a person would who tries the plugin.
func TestCnitool(t *testing.T) {
	n := newNode(t)
	c := newCage(t, n)
	pod := newPod(t)
	try := func(command string) (string, error) {
		return c.try("", "env", `CAP_ARGS={"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`, "CNI_PATH="+ours, "NETCONFPATH="+filepath.Join(root, "conf/cni"),
			filepath.Join(reference, "cnitool"), command, "podwright", pod.Path())
	}
	tool := func(command string) string {
		t.Helper()
		out, err := try(command)
		must(t, err)
		return out
	}
	tool("status") // before anything is there
	var result struct {
		CNIVersion string
		IPs        []struct{ Address netip.Prefix }
	}
	must(t, json.Unmarshal([]byte(tool("add")), &result))
	if len(result.IPs) != 1 || result.IPs[0].Address.String() != "10.88.0.2/16" || result.CNIVersion != "1.1.0" {
		t.Errorf("add: %+v", result)
	}
	stop, err := n.LAN.Serve("lan", lab.Port)
	must(t, err)
	defer stop()
	if got := pod.Ask("tcp", fmt.Sprintf("%s:%d", lab.OutsideAddr4, lab.Port)); got != "lan sees "+lab.NodeAddr4 {
		t.Errorf("from the pod, outside: %q", got)
	}
	tool("check")
	tool("status")
	c.holds(1)

	must(t, pod.Batch("addr flush dev eth0"))
	if _, err := try("check"); err == nil || !strings.Contains(err.Error(), "10.88.0.2") {
		t.Errorf("check without the address: %v", err)
	}
	tool("del")
	tool("del")
	c.holds(0)

	tool("add")
	c.holds(1)
	tool("gc") // DEL of all that it remembers, and then GC without a list
	c.holds(0)
	if out, err := n.Run("nft", "list", "ruleset"); err != nil || out != "" {
		t.Errorf("after gc nftables has %s (%v)", out, err)
	}
	tool("del")
}

// holds expects that so many attachments are on the node, by leases, links and rules.
func (c *cage) holds(want int) {
	c.t.Helper()
	records := strings.Fields(c.do("", "find", "/run/bridge-ipam/podwright/rec", "-type", "f"))
	links, err := linksOf(c.NS)
	must(c.t, err)
	veths := 0
	for _, l := range links {
		if l.Info.Kind == "veth" && l.Name != lab.Uplink {
			veths++
		}
	}
	got, masquerade := elements(c.t, c.Node)
	if len(records) != want || veths != want || len(got) != want || masquerade != (want > 0) {
		c.t.Errorf("%d leases, %d links, %d host ports, masquerade %t; want %d of each", len(records), veths, len(got), masquerade, want)
	}
}

// TestNoOtherProgram lets the plugin work where there is no other program: in a root directory with nothing but it,
// its configuration and /proc. Neither iptables nor nft nor ip can be what does the work.
func TestNoOtherProgram(t *testing.T) {
	n := newNode(t)
	c := newCage(t, n, "mkdir -p /run/root/proc /run/root/data", "mount -t proc proc /run/root/proc",
		"cp "+ours+"/bridge-ipam /run/root/plugin")
	pod := newPod(t)
	chain := network(n, "10.88.0.0/24")
	chain.Plugins[0]["ipam"].(lab.Conf)["dataDir"] = "/data"
	a := lab.Attachment{ID: "pod0", NetNS: pod.Path()}
	stop, err := n.LAN.Serve("lan", lab.Port)
	must(t, err)
	defer stop()
	for _, command := range []string{"STATUS", "ADD", "CHECK", "DEL", "ADD", "GC", "VERSION"} {
		call := chain.First(command, a)
		if command == "GC" {
			call.Stdin = []byte(strings.Replace(string(call.Stdin), "{", `{"cni.dev/valid-attachments":[],`, 1))
		}
		out := c.do(string(call.Stdin), append([]string{"env", "-i", "CNI_COMMAND=" + command, "CNI_PATH=/", "CNI_CONTAINERID=pod0",
			"CNI_IFNAME=eth0", "CNI_NETNS=" + pod.Path()}, c.root()...)...)
		if command == "ADD" {
			a.Prev = json.RawMessage(out)
			if got := pod.Ask("tcp", fmt.Sprintf("%s:%d", lab.OutsideAddr4, lab.Port)); got != "lan sees "+lab.NodeAddr4 {
				t.Errorf("from the pod, outside: %q", got)
			}
		}
	}
	if links, err := linksOf(n.NS); err != nil || len(links) != 2 {
		t.Errorf("at the end the node has %d links (%v), want its own two", len(links), err)
	}
}

// root runs the plugin in the directory of its own.
func (c *cage) root() []string { return []string{"/usr/sbin/chroot", "/run/root", "/plugin"} }

// TestExecutesNothing watches the plugin's system calls.
func TestExecutesNothing(t *testing.T) {
	n := newNode(t)
	trace := filepath.Join(n.Dir, "trace")
	if _, err := n.Run("strace", "-f", "-o", trace, "true"); err != nil {
		t.Skipf("strace does not work here; TestNoOtherProgram shows the same: %v", err)
	}
	pod := newPod(t)
	chain := network(n, "10.88.0.0/24")
	a := lab.Attachment{ID: "pod0", NetNS: pod.Path()}
	for _, command := range []string{"STATUS", "ADD", "CHECK", "DEL"} {
		call := chain.First(command, a)
		out, err := n.RunWith(string(call.Stdin), "env", "CNI_COMMAND="+command, "CNI_PATH="+ours, "CNI_CONTAINERID=pod0",
			"CNI_IFNAME=eth0", "CNI_NETNS="+pod.Path(), "PATH=/nonexistent",
			"/usr/bin/strace", "-f", "-e", "trace=execve,execveat", "-o", trace, call.Path)
		must(t, err)
		if command == "ADD" {
			a.Prev = json.RawMessage(out)
		}
		data, err := os.ReadFile(trace)
		must(t, err)
		if count := strings.Count(string(data), "execve"); count != 1 {
			t.Errorf("%s executes other programs than itself:\n%s", command, data)
		}
	}
}
