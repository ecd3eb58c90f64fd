package bridgeipam

import (
	"bytes"
	"net"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// TestPrintResult: the hand-written form is the library's, in all versions, with all keys and with none.
func TestPrintResult(t *testing.T) {
	n := 1 << 31
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, dst, err := net.ParseCIDR("fd00::/8")
	ok(err)
	full := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: "br0", Mac: "0a:5a:00:00:00:01"},
			{Name: "a\"<b>", Mac: "m", Mtu: 1500, Sandbox: "/run/é", SocketPath: "/s", PciID: "0000:00:1f.6"},
		},
		IPs: []*types100.IPConfig{
			{Interface: types100.Int(1), Address: net.IPNet{IP: net.IP{10, 0, 0, 2}, Mask: net.CIDRMask(16, 32)}, Gateway: net.IP{10, 0, 0, 1}},
			{Address: net.IPNet{IP: net.ParseIP("fd00::2"), Mask: net.CIDRMask(64, 128)}},
		},
		Routes: []*types.Route{
			{Dst: net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, GW: net.ParseIP("10.0.0.1")},
			{Dst: *dst, MTU: 1400, AdvMSS: 1300, Priority: 7, Table: &n, Scope: types100.Int(0)},
		},
		DNS: types.DNS{Nameservers: []string{"10.0.0.10", "fd00::a"}, Domain: "d", Search: []string{"a", "b"}, Options: []string{"ndots:5"}},
	}
	domain := &types100.Result{CNIVersion: "1.0.0", DNS: types.DNS{Domain: "d"}}
	for _, r := range []*types100.Result{full, domain, {CNIVersion: "1.0.0"}, {}} {
		want, got := bytes.Buffer{}, bytes.Buffer{}
		ok(r.PrintTo(&want))
		if ok(printResult(&got, r)); got.String() != want.String() {
			t.Errorf("got  %s\nwant %s", &got, &want)
		}
	}
	for _, version := range supported.SupportedVersions() {
		r, err := full.GetAsVersion(version)
		ok(err)
		want, got := bytes.Buffer{}, bytes.Buffer{}
		ok(r.PrintTo(&want))
		if ok(printResult(&got, r)); got.String() != want.String() {
			t.Errorf("%s: got  %s\nwant %s", version, &got, &want)
		}
	}
}
