package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/test/criclient"
)

// eventually repeats what may need a moment, like a server that has just been started.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for range 50 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%s: %v", what, err)
}

func (w *world) asks(from criclient.Pod, addr, want string) func() error {
	return func() error {
		got, err := w.Exec(w.t.Context(), from, "timeout", "3", "wget", "-q", "-O", "-", "http://"+addr+"/")
		if err == nil && strings.TrimSpace(got) != want {
			err = fmt.Errorf("answered %q, want %q", got, want)
		}
		return err
	}
}

// fetch asks from the node, or from a namespace entered by prefix.
func (w *world) fetch(prefix []string, addr, want string) func() error {
	return func() error {
		args := append(append([]string{}, prefix...), "busybox", "timeout", "3", "busybox", "wget", "-q", "-O", "-", "http://"+addr+"/")
		out, err := command(w.t.Context(), args...)
		if err == nil && strings.TrimSpace(out) != want {
			err = fmt.Errorf("answered %q, want %q", out, want)
		}
		return err
	}
}

// TestUnderContainerd: pods, host ports by every way in, and limits, with containerd's own calls of the plugin.
func TestUnderContainerd(t *testing.T) {
	w := newWorld(t)
	server, ip := w.web("server", 8080)
	client, _ := w.start(criclient.Spec{Name: "client", Command: []string{"sleep", "1000"}})
	w.reachable(server, client, ip)

	t.Run("limits", func(t *testing.T) {
		limited, _ := w.start(criclient.Spec{
			Name: "limited", Command: []string{"sleep", "1000"},
			Annotations: map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "10M"},
		})
		_ = limited
		if got := w.run("tc", "qdisc", "show"); strings.Count(got, "tbf") < 2 || !strings.Contains(got, "rate 10Mbit") {
			t.Errorf("qdiscs: %s", got)
		}
	})
}

// reachable asks the server by its address and by the node's port 8080, from everywhere.
func (w *world) reachable(server, client criclient.Pod, ip string) {
	w.t.Helper()
	lan := []string{"nsenter", "--net", "-t", w.lan, "--"}
	for what, ask := range map[string]func() error{
		"pod to pod":                       w.asks(client, ip, "server"),
		"pod to the node's port":           w.asks(client, nodeOnLAN+":8080", "server"),
		"pod to itself by the node's port": w.asks(server, nodeOnLAN+":8080", "server"),
		"node to its port by its address":  w.fetch(nil, nodeOnLAN+":8080", "server"),
		"node to its port by localhost":    w.fetch(nil, "127.0.0.1:8080", "server"),
		"LAN to the node's port":           w.fetch(lan, nodeOnLAN+":8080", "server"),
		"pod to a host outside, masqueraded": func() error {
			_, err := w.Exec(w.t.Context(), client, "ping", "-c", "1", "-w", "2", hostOnLAN)
			return err
		},
	} {
		eventually(w.t, what, ask)
	}
}

// kubeProxyIPTables is the shape of what kube-proxy keeps in iptables mode: jumps from the built-in chains, a mark for masquerade,
// and a filter for invalid packets. One service is there, so that both translate beside each other.
const kubeProxyIPTables = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-A - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SVC-A -j KUBE-MARK-MASQ
-A KUBE-SVC-A -p tcp -j DNAT --to-destination %s:80
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
`

// kubeProxyNFTables is the same for its nftables mode: a table of its own with dispatch by verdict maps.
const kubeProxyNFTables = `table ip kube-proxy {
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.10 . tcp . 80 : goto service-a }
	}
	chain service-a {
		meta mark set meta mark or 0x4000 meta l4proto tcp dnat to %s:80
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; jump services
	}
	chain nat-output {
		type nat hook output priority -100; jump services
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat; meta mark & 0x4000 != 0 masquerade fully-random
	}
}
`

// TestBesideKubeProxy: host ports and services work beside each other in both of kube-proxy's modes.
func TestBesideKubeProxy(t *testing.T) {
	w := newWorld(t)
	server, ip := w.web("server", 8080)
	client, _ := w.start(criclient.Spec{Name: "client", Command: []string{"sleep", "1000"}})
	for mode, load := range map[string]struct{ rules, with, remove string }{
		"iptables": {kubeProxyIPTables, "iptables-restore --noflush", "nft delete table ip nat; nft delete table ip filter"},
		"nftables": {kubeProxyNFTables, "nft -f -", "nft delete table ip kube-proxy"},
	} {
		t.Run(mode, func(t *testing.T) {
			w := w.in(t)
			w.run("sh", "-c", load.with+" <<'EOF'\n"+fmt.Sprintf(load.rules, ip)+"EOF")
			defer w.run("sh", "-c", load.remove)
			w.reachable(server, client, ip)
			eventually(t, "pod to a service", w.asks(client, "10.96.0.10", "server"))
			eventually(t, "pod to itself by a service", w.asks(server, "10.96.0.10", "server"))
			eventually(t, "node to a service", w.fetch(nil, "10.96.0.10", "server"))
		})
	}
}

// TestForwardPolicyDrop: a host whose FORWARD chain drops what nobody accepts (Docker makes it so) cuts pods off from outside, under any
// bridge plugin. Two rules for the bridge let them through; README and conf/cni say so.
func TestForwardPolicyDrop(t *testing.T) {
	w := newWorld(t)
	server, ip := w.web("server", 8080)
	client, _ := w.start(criclient.Spec{Name: "client", Command: []string{"sleep", "1000"}})
	w.reachable(server, client, ip)
	w.run("iptables", "-P", "FORWARD", "DROP")
	defer w.run("nft", "delete", "table", "ip", "filter")
	if err := w.fetch([]string{"nsenter", "--net", "-t", w.lan, "--"}, nodeOnLAN+":8080", "server")(); err == nil {
		t.Error("the policy does nothing: the test proves nothing")
	}
	w.run("iptables", "-A", "FORWARD", "-i", w.node.Bridge, "-j", "ACCEPT")
	w.run("iptables", "-A", "FORWARD", "-o", w.node.Bridge, "-j", "ACCEPT")
	w.reachable(server, client, ip)
}
