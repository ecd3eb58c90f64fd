package bridgeipam_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// mapping is one wish for a host port as runtimes write it.
type mapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// with adds port mappings, and changes to the configuration.
func (n *node) with(changes map[string]any, mappings ...mapping) string {
	n.t.Helper()
	all := map[string]any{"runtimeConfig": ports(mappings...)}
	for key, value := range changes {
		all[key] = value
	}
	return n.conf(all)
}

func ports(mappings ...mapping) map[string]any {
	return map[string]any{"portMappings": mappings}
}

// bridgeCalls sets whether bridges of the node call iptables: most nodes of Kubernetes have it on.
func (n *node) bridgeCalls(on bool) {
	n.t.Helper()
	value := "0"
	if on {
		value = "1"
	}
	at(n.t, n.ns, func(h *netutil.Handle) {
		for _, key := range []string{"iptables", "ip6tables"} {
			ok(n.t, h.SetSysctls(netutil.Sysctl{Key: "bridge/bridge-nf-call-" + key, Value: value, Optional: true}))
		}
	})
}

// serve answers on a port of a namespace, by both protocols: with a name and the address of who asks.
func serve(t testing.TB, ns, name string, port int) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	nettest.In(t, ns, func() (err error) {
		if tcp, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	answer := func(from net.Addr) []byte {
		a := netip.MustParseAddrPort(from.String())
		return []byte(name + " " + a.Addr().Unmap().String())
	}
	done := make(chan bool, 2)
	go func() {
		defer func() { done <- true }()
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(answer(c.RemoteAddr()))
			_ = c.Close()
		}
	}()
	go func() {
		defer func() { done <- true }()
		b := make([]byte, 16)
		for {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(answer(from), from)
		}
	}()
	t.Cleanup(func() {
		_ = tcp.Close()
		_ = udp.Close()
		<-done
		<-done
	})
}

// patience is how long a packet that is dropped is waited for, and how long one that is not.
const (
	short = 300 * time.Millisecond
	long  = 10 * time.Second
)

// ask connects from a namespace and returns the answer, empty when none came.
func ask(t testing.TB, ns, protocol, to string, patience time.Duration) string {
	t.Helper()
	var conn net.Conn
	nettest.In(t, ns, func() error {
		d := net.Dialer{Timeout: patience}
		conn, _ = d.Dial(protocol, to)
		return nil
	})
	if conn == nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	return talk(t, conn, patience)
}

func talk(t testing.TB, conn net.Conn, patience time.Duration) string {
	t.Helper()
	if _, err := conn.Write([]byte("?")); err != nil {
		return ""
	}
	ok(t, conn.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 64)
	c, _ := conn.Read(b)
	return string(b[:c])
}

// reaches expects an answer from a pod that sees an address.
func reaches(t testing.TB, ns, protocol, to, want string) {
	t.Helper()
	if got := ask(t, ns, protocol, to, long); got != want {
		t.Errorf("%s to %s: %q, want %q", protocol, to, got, want)
	}
}

// silent expects no answer.
func silent(t testing.TB, ns, protocol, to string) {
	t.Helper()
	if got := ask(t, ns, protocol, to, short); got != "" {
		t.Errorf("%s to %s: %q, want none", protocol, to, got)
	}
}

var both = []string{"tcp", "udp"}

// nft runs nft(8), for what it shows and for what others do with it.
func (n *node) nft(args ...string) string {
	n.t.Helper()
	return nettest.Output(n.t, n.ns, "nft", args...)
}

// flows counts the tracked flows with an address.
func (n *node) flows(addr netip.Addr) int {
	n.t.Helper()
	var table []byte
	nettest.In(n.t, n.ns, func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/nf_conntrack")
		return err
	})
	count := 0
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, "="+addr.StringExpanded()+" ") {
			count++
		}
	}
	return count
}
