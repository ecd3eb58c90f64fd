package netconf

import (
	"reflect"
	"testing"
)

func TestLayer2Keys(t *testing.T) {
	for keys, want := range map[string]Config{
		`"x":1`:               {},
		`"macspoofchk":true`:  {CheckMAC: true}, // no addresses to check by
		`"macspoofchk":false`: {},
		`"portIsolation":true,"enabledad":true,"promiscMode":true`: {PortIsolation: true, EnableDAD: true, PromiscMode: true},
		`"disableContainerInterface":true`:                         {LinkDown: true},
		`"vlan":100,"preserveDefaultVlan":true`:                    {VLANs: VLANs{Native: 100, PreserveDefault: true}},
		`"vlanTrunk":[{"id":3},{"minID":4,"maxID":4094}]`:          {VLANs: VLANs{Trunk: []VLANRange{{3, 3}, {4, 4094}}}},
	} {
		expectLayer2(t, conf(keys), want)
	}
	for keys, want := range map[string]Config{
		`"macspoofchk":true`:                           {CheckMAC: true, CheckAddrs: true},
		`"macspoofchk":true,"ipspoofchk":false`:        {CheckMAC: true},
		`"ipv6LinkLocal":true`:                         {LinkLocal: true},
		`"ipspoofchk":true`:                            {CheckAddrs: true},
		`"macspoofchk":true,"vlanTrunk":[{"id":3}]`:    {CheckMAC: true, VLANs: VLANs{Trunk: []VLANRange{{3, 3}}}},
		`"macspoofchk":true,"vlan":3,"isGateway":true`: {CheckMAC: true, CheckAddrs: true, VLANs: VLANs{Native: 3}},
	} {
		expectLayer2(t, ranged(keys), want)
	}
}

func expectLayer2(t *testing.T, config string, want Config) {
	t.Helper()
	c, err := Parse([]byte(config), "")
	if err != nil {
		t.Errorf("%s: %v", config, err)
		return
	}
	got := Config{
		CheckMAC: c.CheckMAC, CheckAddrs: c.CheckAddrs, PromiscMode: c.PromiscMode, PortIsolation: c.PortIsolation,
		EnableDAD: c.EnableDAD, LinkDown: c.LinkDown, LinkLocal: c.LinkLocal, VLANs: c.VLANs,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %+v", config, got)
	}
}
