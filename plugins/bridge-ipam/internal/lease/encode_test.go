package lease

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// TestEncode: the hand-written form is that of encoding/json, with all fields and with none.
func TestEncode(t *testing.T) {
	full := Lease{
		Format: 1, Attachment: Attachment{"c", "eth0"}, Network: "net", Addresses: []netip.Addr{addr(1), netip.MustParseAddr("fd00::1")},
		NetNS: "/run/\"<netns>\" é\x01", NetNSInode: 1 << 63, HostLink: "veth0", MTU: 1500, Delegate: "dhcp", Masquerade: "masq-net",
		Ingress: Limit{1, 2}, Egress: Limit{3, 4},
		HostPorts: &HostPorts{Link: "br0", SNAT: true, MasqAll: true, Loopback: true, Forwards: []Forward{
			forward("tcp", "0.0.0.0:80", "10.0.0.2:8080"), forward("udp", "[fd00::1]:53", "[fd00::2]:53")}},
		Guard:  &Guard{MAC: "0a:58:0a:00:00:01", CheckMAC: true, CheckAddrs: true},
		BootID: "boot", Time: time.Unix(1, 500).UTC(),
	}
	for v := reflect.ValueOf(full); ; v = reflect.ValueOf(*full.HostPorts) { // a new field belongs here and into encode
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s.%s is not tested", v.Type(), v.Type().Field(i).Name)
			}
		}
		if v.Type() == reflect.TypeFor[HostPorts]() {
			break
		}
	}
	some := full
	some.HostPorts, some.Addresses = &HostPorts{Forwards: []Forward{}}, []netip.Addr{}
	for _, l := range []Lease{full, some, {}} {
		want, err := json.Marshal(l)
		if got := l.encode(); err != nil || string(got) != string(want) {
			t.Errorf("got  %s\nwant %s, %v", got, want, err)
		}
	}
}
