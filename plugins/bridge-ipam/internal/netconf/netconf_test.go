package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// conf wraps keys into a configuration with a name and a range.
func conf(keys string) string {
	if keys != "" {
		keys = "," + keys
	}
	return `{"cniVersion":"1.1.0","name":"net","type":"bridge-ipam"` + keys + `}`
}

// ranged adds one IPv4 range.
func ranged(keys string) string {
	return conf(strings.TrimPrefix(keys+`,"ipam":{"ranges":[[{"subnet":"10.88.0.0/16"}]]}`, ","))
}

// mapped adds host ports.
func mapped(list string) string {
	return ranged(`"runtimeConfig":{"portMappings":[` + list + `]}`)
}

func codeOf(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestParseDefaults(t *testing.T) {
	c, err := Parse([]byte(conf("")), "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Bridge != "cni0" || c.DataDir != "/run/bridge-ipam" || c.Name != "net" || c.CNIVersion != "1.1.0" ||
		c.IsGateway || c.IPMasq || c.MTU != 0 || c.MAC != nil || len(c.Sets) != 0 || c.PrevResult != nil {
		t.Errorf("%+v", c)
	}
}

func TestParseEverything(t *testing.T) {
	c, err := Parse([]byte(conf(`
		"bridge":"br9","isDefaultGateway":true,"forceAddress":true,"ipMasq":true,"mtu":1400,"hairpinMode":true,
		"ipMasqBackend":"iptables","preserveDefaultVlan":true,"unknown":{"a":[1]},"vlan":0,"macspoofchk":false,
		"dns":{"nameservers":["10.0.0.1"],"search":["x"]},
		"args":{"cni":{"mac":"02:00:00:00:00:02","ips":["fd00::7"],"labels":[]}},
		"runtimeConfig":{"mac":"02:00:00:00:00:01","ips":["10.1.0.9/24"],"ipRanges":[[{"subnet":"10.1.0.0/24"}]],
			"portMappings":[{"containerPort":80}],"bandwidth":{}},
		"ipam":{"type":"host-local","dataDir":"/a/../b","resolvConf":"/r","subnet":"10.2.0.0/24","rangeStart":"10.2.0.5",
			"rangeEnd":"10.2.0.6","gateway":"10.2.0.254",
			"ranges":[[{"subnet":"fd00::/64"}],[{"subnet":"10.3.0.0/24"},{"subnet":"10.4.0.0/24"}]],
			"routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.2.0.9","mtu":1300,"advmss":1200,"priority":5,"table":9,"scope":0}]}`)),
		"IgnoreUnknown=1;K8S_POD_NAME=x;MAC=02:00:00:00:00:03;IP=10.3.0.9")
	if err != nil {
		t.Fatal(err)
	}
	if !c.IsGateway || !c.IsDefaultGateway || !c.ForceAddress || !c.IPMasq || !c.Hairpin || c.MTU != 1400 ||
		c.Bridge != "br9" || c.DataDir != "/b" || c.ResolvConf != "/r" || c.MAC.String() != "02:00:00:00:00:01" {
		t.Errorf("%+v", c)
	}
	if got := fmt.Sprint(c.Requested); got != "[10.3.0.9 fd00::7 10.1.0.9]" {
		t.Errorf("requested %s", got)
	}
	if got := fmt.Sprint(c.Subnets()); got != "[10.1.0.0/24 10.2.0.0/24 fd00::/64 10.3.0.0/24 10.4.0.0/24]" {
		t.Errorf("subnets %s", got)
	}
	if r := c.Sets[1][0]; r.First.String() != "10.2.0.5" || r.Last.String() != "10.2.0.6" || r.Gateway.String() != "10.2.0.254" {
		t.Errorf("%+v", r)
	}
	if len(c.Sets) != 4 || len(c.Sets[3]) != 2 || len(c.Routes) != 2 || c.Routes[1].MTU != 1300 || *c.Routes[1].Table != 9 {
		t.Errorf("sets %v, routes %v", c.Sets, c.Routes)
	}
	if len(c.DNS.Nameservers) != 1 || c.DNS.Search[0] != "x" {
		t.Errorf("%+v", c.DNS)
	}
}

// TestRefused: what is refused, with which code, and that the message names key and value.
func TestRefused(t *testing.T) {
	type refusal struct {
		json string
		code uint
		want string
	}
	for _, c := range []refusal{
		{``, 6, "unexpected end"},
		{`{`, 6, "unexpected end"},
		{`[]`, 6, "array"},
		{`{"cniVersion":"1.1.0","name":"net"} x`, 6, "invalid character"},
		{strings.Repeat(`{"a":`, 20000), 6, "depth"},
		{`{"cniVersion":"1.1.0"}`, 7, "name: missing"},
		{`{"name":"a/b"}`, 7, `name "a/b"`},
		{`{"name":".."}`, 7, `name ".."`},
		{`{"name":"` + strings.Repeat("a", 256) + `"}`, 7, "256 bytes"},

		{conf(`"bridge":"a/b"`), 7, `bridge "a/b"`},
		{conf(`"bridge":"0123456789abcdef"`), 7, `bridge "0123456789abcdef"`},
		{conf(`"bridge":"br%d"`), 7, `bridge "br%d"`},
		{conf(`"bridge":7`), 6, "bridge: a JSON number does not fit, want a string"},
		{conf(`"isGateway":"yes"`), 6, "isGateway: a JSON string does not fit, want true or false"},
		{conf(`"mtu":"9000"`), 6, "mtu: a JSON string does not fit, want a whole number"},
		{conf(`"mtu":1.5`), 6, "mtu"},
		{conf(`"ipam":[]`), 6, "ipam"},
		{conf(`"mtu":-1`), 7, "mtu -1"},
		{conf(`"mtu":67`), 7, "mtu 67"},
		{conf(`"mtu":65536`), 7, "mtu 65536"},
		{conf(`"mtu":1279,"ipam":{"subnet":"fd00::/64"}`), 7, "mtu 1279: want 0 (automatic) or 1280"},
		{conf(`"ipMasqBackend":"pf"`), 7, `ipMasqBackend "pf"`},

		{conf(`"groupFwdMask":8`), 2, "groupFwdMask 8: not supported"},
		{conf(`"vlan":-1`), 7, "vlan -1: want 0 (none) to 4094"},
		{conf(`"vlan":4095`), 7, "vlan 4095"},
		{conf(`"vlan":4094,"isGateway":true,"bridge":"bridge-long"`), 7, `bridge "bridge-long": too long`},
		{conf(`"vlanTrunk":[{"id":3},{}]`), 7, "vlanTrunk[1]: want either id or both"},
		{conf(`"vlanTrunk":[{"id":3,"minID":4}]`), 7, "vlanTrunk[0]: want either"},
		{conf(`"vlanTrunk":[{"minID":4}]`), 7, "vlanTrunk[0]: want either"},
		{conf(`"vlanTrunk":[{"id":0}]`), 7, "vlanTrunk[0].id 0"},
		{conf(`"vlanTrunk":[{"minID":5,"maxID":4}]`), 7, "vlanTrunk[0].minID and maxID 5 to 4"},
		{conf(`"vlanTrunk":[{"minID":5,"maxID":4095}]`), 7, "vlanTrunk[0].minID and maxID 5 to 4095"},
		{conf(`"vlanTrunk":{"id":3}`), 6, "vlanTrunk: a JSON object does not fit, want a list"},
		{conf(`"promiscMode":true,"hairpinMode":true`), 7, "promiscMode true: excludes hairpinMode true"},
		{ranged(`"disableContainerInterface":true`), 7, "disableContainerInterface true: excludes ipam"},
		{conf(`"ipspoofchk":true`), 7, "ipspoofchk true: needs ipam"},
		{ranged(`"ipspoofchk":true,"vlanTrunk":[{"id":3}]`), 7, "ipspoofchk true: needs ipam and excludes vlanTrunk"},
		{conf(`"ipspoofchk":1`), 6, "ipspoofchk: a JSON number does not fit, want true or false"},
		{ranged(`"runtimeConfig":{"bandwidth":{"ingressRate":1}}`), 7, "runtimeConfig.bandwidth.ingressRate 1"},
		{ranged(`"externalSetMarkChain":"KUBE-MARK-MASQ"`), 2, `externalSetMarkChain "KUBE-MARK-MASQ"`},
		{ranged(`"conditionsV4":["!","-d","10.0.0.1"]`), 2, "conditionsV4"},
		{ranged(`"conditionsV6":["ip6 daddr fd00::1"]`), 2, "conditionsV6"},

		{ranged(`"markMasqBit":32`), 7, "markMasqBit 32: want 0 to 31"},
		{ranged(`"backend":"ebpf"`), 7, `backend "ebpf"`},
		{ranged(`"snat":"no"`), 6, "snat: a JSON string does not fit, want true or false"},
		{mapped(`{"hostPort":-1,"containerPort":80,"protocol":"tcp"}`), 7, "portMappings[0].hostPort -1: want 1 to 65535"},
		{mapped(`{"hostPort":65536,"containerPort":80,"protocol":"tcp"}`), 7, "hostPort 65536"},
		{mapped(`{"hostPort":80,"protocol":"tcp"}`), 7, "containerPort 0"},
		{mapped(`{"hostPort":80,"containerPort":80}`), 7, `protocol "": want "tcp", "udp" or "sctp"`},
		{mapped(`{"hostPort":80,"containerPort":80,"protocol":"icmp"}`), 7, `protocol "icmp"`},
		{mapped(`{"hostPort":80,"containerPort":80,"protocol":"tcp","hostIP":"10.0.0"}`), 7, `hostIP "10.0.0"`},
		{mapped(`{"hostPort":80,"containerPort":80,"protocol":"tcp","hostIP":"fe80::1%eth0"}`), 7, "hostIP"},
		{mapped(`{"hostPort":80,"containerPort":80,"protocol":"tcp","hostIP":"224.0.0.1"}`), 7, "hostIP 224.0.0.1"},
		{mapped(`{"hostPort":80,"containerPort":80,"protocol":"tcp"},{"hostPort":80,"containerPort":81,"protocol":"tcp"}`), 7,
			"portMappings[1]: hostPort 80/tcp leads to containerPort 80 already"},
		{conf(`"mode":"l2"`), 7, `mode "l2"`},
		{conf(`"mode":"routed"`), 7, "mode \"routed\": needs addresses"},
		{conf(`"mode":"routed","bridge":"br0","hairpinMode":true,"forceAddress":true,"ipam":{"subnet":"10.0.0.0/24"}`), 7,
			"bridge, forceAddress, hairpinMode: have no meaning with mode \"routed\""},
		{conf(`"ipam":{"type":"../dhcp"}`), 7, `ipam.type "../dhcp"`},
		{conf(`"type":"a/b"`), 7, `type "a/b"`},

		{conf(`"ipam":{"type":"host-local"}`), 7, "ipam.ranges: missing"},
		{conf(`"ipam":{"type":"host-local","ranges":[]}`), 7, "ipam.ranges: missing"},
		{conf(`"ipam":{"ranges":[[]]}`), 7, "ipam.ranges[0]: empty"},
		{conf(`"ipam":{"ranges":[[{}]]}`), 7, "ipam.ranges[0][0].subnet: missing"},
		{conf(`"ipam":{"ranges":[[{"subnet":"10.0.0.0"}]]}`), 7, `ipam.ranges[0][0].subnet "10.0.0.0"`},
		{conf(`"ipam":{"subnet":"::ffff:10.0.0.0/112"}`), 7, `ipam.subnet "::ffff:10.0.0.0/112"`},
		{conf(`"ipam":{"ranges":[[{"subnet":"10.0.0.1/8"}]]}`), 7, "host bits"},
		{conf(`"ipam":{"subnet":"10.0.0.0/31"}`), 7, "ipam.subnet 10.0.0.0/31: too small"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","rangeStart":"10.1.0.1"}`), 7, "ipam.rangeStart 10.1.0.1: not in subnet"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","rangeEnd":"10.1.0.1"}`), 7, "ipam.rangeEnd 10.1.0.1: not in subnet"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","rangeEnd":"x"}`), 7, `ipam.rangeEnd "x"`},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","gateway":"fe80::1%eth0"}`), 7, "ipam.gateway"},
		{conf(`"ipam":{"rangeStart":"10.0.0.1"}`), 7, "ipam.subnet: missing"},
		{conf(`"ipam":{"ranges":[[{"subnet":"10.0.0.0/24"},{"subnet":"fd00::/64"}]]}`), 7, "IPv4 and IPv6"},
		{conf(`"ipam":{"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.0.0/16"}]]}`), 7, "overlap"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","dataDir":"run"}`), 7, `ipam.dataDir "run"`},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"x"}]}`), 7, "ipam.routes[0]"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","routes":[{}]}`), 7, "ipam.routes[0].dst: missing"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","gw":"fd00::1"}]}`), 7, "ipam.routes[0].gw fd00::1"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","mtu":-1}]}`), 7, "ipam.routes[0].mtu -1"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","priority":4294967296}]}`), 7, "ipam.routes[0].priority 4294967296"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","table":-1}]}`), 7, "ipam.routes[0].table -1"},
		{conf(`"ipam":{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","scope":256}]}`), 7, "ipam.routes[0].scope 256"},
		{strings.Replace(conf(`"ipam":{"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.1.0.0/24"}]]}`), "1.1.0", "0.2.0", 1),
			7, "one address per family"},

		{ranged(`"runtimeConfig":{"mac":"x"}`), 7, `runtimeConfig.mac "x"`},
		{ranged(`"runtimeConfig":{"mac":"01:00:00:00:00:01"}`), 7, "unicast"},
		{ranged(`"runtimeConfig":{"mac":"00:00:00:00:00:00"}`), 7, "unicast"},
		{ranged(`"args":{"cni":{"mac":"02:00:00:00:00:00:00:01"}}`), 7, "args.cni.mac"},
		{ranged(`"runtimeConfig":{"ips":["x"]}`), 7, `runtimeConfig.ips "x"`},
		{ranged(`"runtimeConfig":{"ips":["10.99.0.1"]}`), 7, "runtimeConfig.ips 10.99.0.1: not in the ranges"},
		{ranged(`"runtimeConfig":{"ips":["10.88.0.9","10.88.0.8"]}`), 7, "2 addresses are asked for"},
		{conf(`"runtimeConfig":{"ips":["10.88.0.9"]}`), 7, "not in the ranges"},
		{ranged(`"prevResult":7`), 6, "prevResult"},
		{ranged(`"prevResult":{"cniVersion":"9.9.9"}`), 7, "prevResult"},
		{ranged(`"prevResult":{"interfaces":[{"name":"x"},null]}`), 7, "prevResult.interfaces[1]: null"},
		{ranged(`"prevResult":{"ips":[null]}`), 7, "prevResult.ips[0]: null"},
		{strings.Replace(ranged(`"prevResult":{"ips":[null]}`), "1.1.0", "0.4.0", 1), 7, "prevResult.ips[0]: null"},
		{ranged(`"prevResult":{"routes":[null]}`), 7, "prevResult.routes[0]: null"},
	} {
		_, err := Parse([]byte(c.json), "")
		if err != nil && strings.Contains(err.Error(), "raw") {
			t.Errorf("a name of ours in a message: %v", err)
		}
		if codeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.120s\n\tcode %d, want %d: %v; want %q", c.json, codeOf(err), c.code, err, c.want)
		}
	}
}

func TestPortMappings(t *testing.T) {
	c, err := Parse([]byte(mapped(`{"hostPort":0,"containerPort":1},{"hostPort":80,"containerPort":8080,"protocol":"TCP","hostIP":"::ffff:10.0.0.1"},
		{"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":""},{"hostPort":53,"containerPort":53,"protocol":"udp"}`)), "")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.HostPorts); got != "{[{tcp 10.0.0.1 80 8080} {udp invalid IP 53 53}] true false}" {
		t.Errorf("%s", got)
	}
	c, err = Parse([]byte(ranged(`"snat":false,"masqAll":true,"markMasqBit":7,"backend":"iptables","conditionsV4":[""],"externalSetMarkChain":""`)), "")
	if err != nil || c.HostPorts.SNAT || !c.HostPorts.MasqAll || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "markMasqBit 7") {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := Parse([]byte(conf(`"mtu":1,"vlan":5000,"ipam":{"ranges":[[{"subnet":"x"}]]}`)), "")
	for _, want := range []string{"mtu 1", "vlan 5000", `subnet "x"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %s is missing", err, want)
		}
	}
}

func TestArgs(t *testing.T) {
	for s, fine := range map[string]bool{
		"": true, "MAC=02:00:00:00:00:01": true, "IgnoreUnknown=true;A=b": true, "IgnoreUnknown=1;A=b": true,
		"A=b": false, "IgnoreUnknown=0;A=b": false, "A": false, "IP=10.88.0.4,10.89.0.4": false, "IP=10.88.0.4": true,
	} {
		_, err := Parse([]byte(ranged("")), s)
		if (err == nil) != fine {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := Parse([]byte(ranged("")), "A=b"); codeOf(err) != 4 || !strings.Contains(err.Error(), "CNI_ARGS") {
		t.Errorf("%v", err)
	}
}

func TestPrevResult(t *testing.T) {
	for _, prev := range []string{
		`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.88.0.2/16","interface":0}]}`,
		`{"interfaces":[{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.88.0.2/16","interface":0}]}`,
	} {
		c, err := Parse([]byte(ranged(`"prevResult":`+prev)), "")
		if err != nil || len(c.PrevResult.IPs) != 1 || c.PrevResult.Interfaces[0].Name != "eth0" {
			t.Errorf("%v", err)
		}
	}
	if c, err := Parse([]byte(ranged(`"prevResult":null`)), ""); err != nil || c.PrevResult != nil {
		t.Errorf("null: %v", err)
	}
}

func TestParseTeardown(t *testing.T) {
	for _, c := range []struct {
		name, json string
		valid      int // -1: none
		promise    bool
	}{
		{"missing", conf(""), -1, false},
		{"null", conf(`"cni.dev/valid-attachments":null`), 0, false},
		{"empty", conf(`"cni.dev/valid-attachments":[]`), 0, false},
		{"one", conf(`"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`), 1, false},
		{"old name", conf(`"cni.dev/attachments":[{"containerID":"a","ifname":"eth0"}]`), 1, false},
		{"promise", conf(`"runtimeConfig":{"io.podwright.netns-destroyed":true}`), -1, true},
		{"a configuration gone bad", conf(`"mtu":"x","vlan":5,"ipam":{"ranges":7,"dataDir":"/d"},"prevResult":8`), -1, false},
	} {
		td, err := ParseTeardown([]byte(c.json))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		valid := len(td.Valid)
		if td.Valid == nil {
			valid = -1
		}
		if valid != c.valid || td.NetnsDestroyed != c.promise || td.Name != "net" {
			t.Errorf("%s: %+v", c.name, td)
		}
	}
	for _, c := range []struct {
		json string
		code uint
	}{
		{``, 6}, {`{`, 6}, {`{}`, 7}, {`{"name":"x","ipam":{"dataDir":"rel"}}`, 7},
		{conf(`"cni.dev/valid-attachments":7`), 7},
	} {
		if _, err := ParseTeardown([]byte(c.json)); codeOf(err) != c.code {
			t.Errorf("%s: %v", c.json, err)
		}
	}
}

// FuzzParse: whatever comes in, nothing panics, and what is accepted holds what later code relies on.
func FuzzParse(f *testing.F) {
	for _, keys := range []string{
		"", `"mtu":1500`, `"ipam":{"subnet":"10.0.0.0/8"}`, `"ipam":{"ranges":[[{"subnet":"fd00::/64"}],[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9"}]]}`,
		`"ipam":{"subnet":"255.255.255.0/24"}`, `"ipam":{"subnet":"::/0"}`, `"ipam":{"subnet":"0.0.0.0/0"}`,
		`"ipam":{"subnet":"::ffff:10.0.0.0/112"}`, `"runtimeConfig":{"ips":["::ffff:10.0.0.1"],"mac":"02:00:00:00:00:01"},"ipam":{"subnet":"10.0.0.0/8"}`,
		`"prevResult":{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/8"}}`, `"cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}]`,
		`"ipam":{"subnet":"10.0.0.0/8","routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1","table":254}]}`,
		`"mode":"routed","ipam":{"subnet":"10.0.0.0/8"}`, `"ipam":{"type":"static","addresses":[{"address":"10.0.0.2/8"}],"ranges":7}`,
		`"type":"macvlan","mode":"vepa","mtu":"x","ipam":{"type":"bridge-ipam","subnet":"10.0.0.0/8"}`,
		`"mtu":"x","vlan":[],"ipam":{"dataDir":"rel","ranges":[[{"subnet":7}]]}`, `"brigde":"a","ipam":{"type":"host-local","rangs":[]}`,
		`"cni.dev/attachments":null,"dns":{"search":["a"]},"args":{"cni":{"ips":["10.0.0.9/8"],"mac":"02:00:00:00:00:01"}}`,
		`"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"TCP","hostIP":"::ffff:10.0.0.1"}]},"snat":false`,
	} {
		f.Add([]byte(conf(keys)), "IgnoreUnknown=1;IP=10.0.0.9")
	}
	f.Fuzz(func(t *testing.T, data []byte, args string) {
		if _, err := ParseTeardown(data); err != nil && codeOf(err) == 0 {
			t.Errorf("no code: %v", err)
		}
		var got, want raw
		if read(data, &got, (*raw).members) && (json.Unmarshal(data, &want) != nil || !reflect.DeepEqual(got, want)) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		_, plain := Parse(data, "")
		if faults, _ := Lint(data); (plain == nil) != (len(faults) == 0) {
			t.Errorf("Parse says %v, Lint %q", plain, faults)
		}
		c, err := Parse(data, args)
		if err != nil {
			if codeOf(err) == 0 {
				t.Errorf("no code: %v", err)
			}
			return
		}
		if c.Name == "" || c.Bridge == "" || c.DataDir == "" || len(c.Requested) > len(c.Sets) {
			t.Errorf("%+v", c)
		}
		for _, m := range c.HostPorts.Mappings {
			if m.HostPort == 0 || m.ContainerPort == 0 || m.Protocol != strings.ToLower(m.Protocol) || m.HostIP.Zone() != "" || m.HostIP.Is4In6() {
				t.Errorf("%+v", m)
			}
		}
		for _, s := range c.Sets {
			for _, r := range s {
				if !r.Subnet.Contains(r.First) || !r.Subnet.Contains(r.Last) || r.Last.Less(r.First) || !r.Gateway.IsValid() {
					t.Errorf("%+v", r)
				}
			}
		}
	})
}

// TestLint: all faults, one behind the other, and keys that nothing reads.
func TestLint(t *testing.T) {
	faults, unknown := Lint([]byte(`{"name":"a/b","mtu":"x","Bridge":7,"ipam":{"dataDir":"rel","subnet":"10.0.0.1/8","rangs":[]},
		"isgateway":true,"brigde":"b","args":{"x":1},"cni.dev/x":1,"capabilities":{"mac":true}}`))
	if got := strings.Join(faults, "|"); strings.Count(got, "|") != 4 {
		t.Errorf("%q", faults)
	}
	for i, want := range []string{"mtu: ", "bridge: ", `name "a/b"`, `ipam.dataDir "rel"`, "host bits"} {
		if !strings.Contains(faults[i], want) {
			t.Errorf("%q is not in %q", want, faults[i])
		}
	}
	if fmt.Sprint(unknown) != "[brigde ipam.rangs]" {
		t.Errorf("unknown: %q", unknown)
	}
	if faults, unknown := Lint([]byte(conf(`"ipam":{"type":"static","addresses":[]}`))); len(faults)+len(unknown) != 0 {
		t.Errorf("another plugin's keys: %q %q", faults, unknown)
	}
	for _, none := range []string{"null", "{}", "[]", "7", "{"} {
		if faults, _ := Lint([]byte(none)); len(faults) == 0 {
			t.Errorf("%s is fine", none)
		}
	}
}
