package lease

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func forward(proto, host, pod string) Forward {
	return Forward{Protocol: proto, Host: netip.MustParseAddrPort(host), Pod: netip.MustParseAddrPort(pod)}
}

// TestPorts: a claim holds with its lease and no longer, one at a time.
func TestPorts(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, "net", "boot1")
	web, dns := forward("tcp", "0.0.0.0:80", "10.0.0.2:8080"), forward("udp", "[fd00::1]:53", "[fd00::2]:53")
	first := Lease{
		Attachment: Attachment{"c", "eth0"}, Network: "net", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")},
		HostPorts: &HostPorts{Link: "br0", SNAT: true, Forwards: []Forward{web, dns}},
	}
	other := first
	other.Attachment, other.Addresses = Attachment{"d", "eth0"}, []netip.Addr{netip.MustParseAddr("10.0.0.3")}
	if s.HasPorts() {
		t.Error("ports before the first lease")
	}
	l, err := s.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Unlock() }()
	if _, err := s.PortOwner(web); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := l.Commit(first); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(other); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "tcp 0.0.0.0:80") {
		t.Errorf("%v", err)
	}
	for _, f := range first.HostPorts.Forwards {
		if o, err := s.PortOwner(f); err != nil || o.ContainerID != "c" || len(o.HostPorts.Forwards) != 2 || o.HostPorts.Forwards[0] != web {
			t.Errorf("%+v, %v", o, err)
		}
	}
	// Another kind of the same number is free.
	for _, f := range []Forward{
		forward("udp", "0.0.0.0:80", "10.0.0.2:1"), forward("tcp", "127.0.0.1:80", "10.0.0.2:1"),
		forward("tcp", "[::]:80", "[fd00::2]:1"),
	} {
		if _, err := s.PortOwner(f); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", f.Claim(), err)
		}
	}
	siblings, err := New(dir, "net2", "boot1").Siblings()
	if err != nil || len(siblings) != 1 {
		t.Fatalf("%v, %v", siblings, err)
	}
	if list, err := siblings[0].WithPorts(); err != nil || len(list) != 1 || list[0].ContainerID != "c" {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := New(dir, "net", "boot2").WithPorts(); err != nil || len(list) != 0 {
		t.Errorf("of another boot: %v, %v", list, err)
	}
	if err := l.Release(first.Attachment); err != nil || s.HasPorts() {
		t.Errorf("after release: %v, ports %t", err, s.HasPorts())
	}
	if err := l.Commit(other); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(s.path("rec")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PortOwner(web); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := l.Sweep(); err != nil || s.HasPorts() {
		t.Errorf("after sweep: %v, ports %t", err, s.HasPorts())
	}
}
