package bridgeipam_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// limited is a configuration with both directions limited as the kubelet asks for it: a burst that means
// nothing.
func (n *node) limited(rate int64) string {
	return n.conf(map[string]any{"runtimeConfig": map[string]any{"bandwidth": map[string]any{
		"ingressRate": rate, "ingressBurst": math.MaxInt32, "egressRate": rate, "egressBurst": math.MaxInt32,
	}}})
}

// iperf runs iperf3 from one namespace to an address in another, for some seconds, and returns the bits
// that the receiver got in each second.
func iperf(t testing.TB, from, to string, addr netip.Addr, seconds string) (perSecond []float64, mean float64) {
	t.Helper()
	path, err := exec.LookPath("iperf3")
	if err != nil {
		t.Fatal("iperf3 is missing: make deps installs it")
	}
	var out, errs bytes.Buffer
	server := exec.Command(path, "-s", "-1", "-J", "-B", addr.String())
	server.Stdout, server.Stderr = &out, &errs
	nettest.In(t, to, server.Start)
	defer func() { _ = server.Process.Kill() }()
	var client *exec.Cmd
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); { // until the server listens
		client = exec.Command(path, "-c", addr.String(), "-t", seconds, "--connect-timeout", "1000") // milliseconds
		nettest.In(t, from, client.Start)
		if err = client.Wait(); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("iperf3 client: %v", err)
	}
	if err := server.Wait(); err != nil {
		t.Fatalf("iperf3 server: %v: %s%s", err, out.String(), errs.String())
	}
	var report struct {
		Intervals []struct {
			Sum struct {
				Seconds       float64
				BitsPerSecond float64 `json:"bits_per_second"`
			}
		}
		End struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	ok(t, json.Unmarshal(out.Bytes(), &report))
	for _, i := range report.Intervals {
		if i.Sum.Seconds > 0.9 {
			perSecond = append(perSecond, i.Sum.BitsPerSecond/1e6)
		}
	}
	return perSecond, report.End.SumReceived.BitsPerSecond / 1e6
}

// TestBandwidth: what the receiver counts, in each direction, from the first second on. A pod with limits
// speaks to one without, so that each run shows one limit.
func TestBandwidth(t *testing.T) {
	n := newNode(t)
	limited, free := nettest.NewNS(t), nettest.NewNS(t)
	conf := n.limited(100e6)
	a, b := n.add("limited", limited, conf), n.add("free", free, n.conf(nil))
	for _, c := range []struct {
		what     string
		from, to string
		addr     netip.Addr
	}{
		{"egress", limited, free, b.addr(0)},
		{"ingress", free, limited, a.addr(0)},
		{"egress, IPv6", limited, free, b.addr(1)},
	} {
		var mean float64
		for try := 0; try < 3 && mean < 90; try++ { // a machine that is busy elsewhere may be slower, never faster
			var seconds []float64
			seconds, mean = iperf(t, c.from, c.to, c.addr, "3")
			t.Logf("%s: %.1f Mbit/s; by second %.1f", c.what, mean, seconds)
			// A receiver that slept counts a second's bytes in the next one; without a limit there are thousands.
			if len(seconds) < 2 || seconds[0] > 150 {
				t.Errorf("%s: the first second is not limited", c.what)
			}
		}
		if mean < 90 || mean > 105 {
			t.Errorf("%s: %.1f Mbit/s, want 90 to 105", c.what, mean)
		}
	}
}

func (n *node) host(f func(h *netutil.Handle)) {
	n.t.Helper()
	at(n.t, n.ns, f)
}

func TestBandwidthLife(t *testing.T) {
	n := newNode(t)
	conf := n.limited(1e9)
	pod := nettest.NewNS(t)
	r := n.add("c", pod, conf)
	if len(r.Interfaces) != 4 || !strings.HasPrefix(r.Interfaces[3].Name, "bwp") || r.Interfaces[3].Sandbox != "" || *r.IPs[0].Interface != 2 {
		t.Errorf("%s", r.raw)
	}
	ifb := r.Interfaces[3].Name
	check := call{cmd: "CHECK", id: "c", ifName: "eth0", netns: pod, conf: withPrev(t, conf, r.raw)}
	n.quiet(check)
	n.host(func(h *netutil.Handle) {
		for _, name := range []string{ifb, r.Interfaces[1].Name} {
			l, err := h.Link(name)
			ok(t, err)
			was, err := h.Bucket(l.Index)
			ok(t, err)
			ok(t, h.SetBucket(l.Index, netutil.Bucket{Rate: was.Rate * 2, Burst: was.Burst, Queue: was.Queue}))
			n.refused(check, 999, name, "limited to")
			ok(t, h.SetBucket(l.Index, was))
			n.quiet(check)
			if addrs, err := h.Addrs(l.Index); len(addrs) != 0 || err != nil {
				t.Errorf("%s has %v, %v", name, addrs, err)
			}
		}
		ok(t, h.DeleteLink(ifb))
	})
	n.refused(check, 999, ifb, "not found")
	for range 2 {
		n.del("c", conf)
	}
	n.clean("br0")
}

// TestIfbOfTheDead: an ifb outlives the namespace of its pod, and is found without a lease.
func TestIfbOfTheDead(t *testing.T) {
	n := newNode(t)
	conf := n.limited(1e9)
	gone := func(id string) {
		pod := nettest.NewNS(t)
		n.add(id, pod, conf)
		nettest.DeleteNS(t, pod)
		deadline := time.Now().Add(10 * time.Second) // the kernel ends namespaces in its own time
		for links, _, _ := n.left(); len(links) > 2 && time.Now().Before(deadline); links, _, _ = n.left() {
			time.Sleep(20 * time.Millisecond)
		}
	}
	gone("c")
	n.del("c", conf)
	n.clean("br0")
	gone("c")
	n.add("c", nettest.NewNS(t), n.conf(nil)) // the same attachment again, without a limit
	if links, _, _ := n.left(); len(links) != 2 {
		t.Errorf("links %v", links)
	}
	n.del("c", conf)
	gone("d")
	var c map[string]any
	ok(t, json.Unmarshal([]byte(conf), &c))
	c["cni.dev/valid-attachments"] = []any{map[string]any{"containerID": "other", "ifname": "eth0"}}
	gc, err := json.Marshal(c)
	ok(t, err)
	n.quiet(call{cmd: "GC", conf: string(gc)})
	n.clean("br0")
	promised := withCapability(t, conf)
	pod := nettest.NewNS(t)
	n.add("e", pod, conf)
	n.quiet(call{cmd: "DEL", id: "e", ifName: "eth0", conf: promised})
	if links, _, _ := n.left(); len(links) != 2 { // the bridge and the host end, which ends with the namespace
		t.Errorf("links %v", links)
	}
}

// TestIfbOfTheReclaimed: where an address or a host port is taken back from the dead, their ifb goes with their lease.
func TestIfbOfTheReclaimed(t *testing.T) {
	for name, wish := range map[string]map[string]any{
		"an exhausted range": {"ipam": ranges("10.77.0.0/30")}, // one address
		"a host port":        {"runtimeConfig": ports(mapping{80, 80, "tcp", ""})},
	} {
		n := newNode(t)
		limited := maps.Clone(wish)
		limited["egressRate"], limited["egressBurst"] = 1e9, 1e6
		pod := nettest.NewNS(t)
		n.add("dead", pod, n.conf(limited))
		at(t, pod, func(h *netutil.Handle) { ok(t, h.DeleteLink("eth0")) })
		nettest.DeleteNS(t, pod)
		n.add("c", nettest.NewNS(t), n.conf(wish))
		if links, _, _ := n.left(); len(links) != 2 {
			t.Errorf("%s: links %v", name, links)
		}
	}
}

// withCapability adds the runtime's promise to destroy the namespace.
func withCapability(t testing.TB, conf string) string {
	var c map[string]any
	ok(t, json.Unmarshal([]byte(conf), &c))
	c["runtimeConfig"] = map[string]any{"io.podwright.netns-destroyed": true}
	data, err := json.Marshal(c)
	ok(t, err)
	return string(data)
}
