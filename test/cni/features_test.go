package cni

import "github.com/podwright/podwright/test/cni/lab"

// published are host ports: reference portmap behind bridge, ours in one.
var published = func() (list []scenario) {
	one := lab.Conf{"hostPort": 9080, "containerPort": lab.Port, "protocol": "tcp"}
	for _, s := range []scenario{
		{name: "hostPort", runtime: ports(one)},
		{name: "hostPort with masquerade", conf: lab.Conf{"ipMasq": true}, runtime: ports(one)},
		{name: "hostPort by UDP", runtime: ports(lab.Conf{"hostPort": 9080, "containerPort": lab.Port, "protocol": "udp"})},
		{name: "hostPort by both protocols", runtime: ports(one, lab.Conf{"hostPort": 9080, "containerPort": lab.Port, "protocol": "udp"})},
		{name: "hostPort at an address of the node", runtime: ports(with(one, "hostIP", lab.NodeAddr4))},
		{name: "hostPort at localhost", runtime: ports(with(one, "hostIP", "127.0.0.1"))},
		{name: "hostPort at any address", runtime: ports(with(one, "hostIP", "0.0.0.0"))},
		{name: "hostPort of both families", runtime: ports(one), ipam: ranges("10.88.0.0/24", "fd88::/64")},
		{name: "hostPort of both families at an IPv6 address", runtime: ports(with(one, "hostIP", lab.NodeAddr6)), ipam: ranges("10.88.0.0/24", "fd88::/64")},
		{name: "hostPort without snat", portmap: lab.Conf{"snat": false}, runtime: ports(one)},
		{name: "hostPort with masqAll", portmap: lab.Conf{"masqAll": true}, runtime: ports(one)},
		{name: "hostPort with hairpin", conf: lab.Conf{"hairpinMode": true}, runtime: ports(one)},
		{name: "no hostPort", ignored: true, runtime: ports()},
		{name: "hostPort 0", ignored: true, runtime: ports(with(one, "hostPort", 0))},
		{name: "many hostPorts", runtime: ports(one, with(one, "hostPort", 9081), with(one, "hostPort", 9082), with(one, "hostPort", 9083))},
	} {
		if s.portmap == nil {
			s.portmap = lab.Conf{"snat": true}
		}
		s.needs, s.pod = "portmap", onlyFirst
		list = append(list, s)
	}
	return list
}()

func ports(mappings ...lab.Conf) lab.Conf {
	list := []any{}
	for _, m := range mappings {
		list = append(list, m)
	}
	return lab.Conf{"portMappings": list}
}

func with(c lab.Conf, key string, value any) lab.Conf {
	out := lab.Conf{key: value}
	for k, v := range c {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// shaped are bandwidths.
var shaped = []scenario{
	{name: "bandwidth by the runtime", bandwidth: lab.Conf{}, needs: "bandwidth", runtime: lab.Conf{
		"bandwidth": lab.Conf{"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 4000000, "egressBurst": 400000}}},
	{name: "bandwidth by the network", bandwidth: lab.Conf{"ingressRate": 8000000, "ingressBurst": 800000}, needs: "bandwidth", ignored: true},
	{name: "bandwidth without a burst", bandwidth: lab.Conf{"ingressRate": 8000000}, needs: "bandwidth", ignored: true},
}

// vlanGateway is what stays with the bridge of a VLAN: the gateway's link and its port.
var vlanGateway = []string{"VETH," + bridgeName + "," + bridgeName + ".100"}

// roles are the other keys of bridge.
var roles = []scenario{
	{name: "vlan", conf: lab.Conf{"vlan": 100}, leaves: vlanGateway, needs: "vlan", kernel: vlanFiltering},
	{name: "vlan without gateway", conf: lab.Conf{"vlan": 100, "isGateway": false}, needs: "vlan", kernel: vlanFiltering},
	{name: "vlan trunk", conf: lab.Conf{"vlanTrunk": []any{lab.Conf{"id": 101}, lab.Conf{"minID": 200, "maxID": 210}}, "isGateway": false, "ipam": lab.Conf{}}, needs: "vlan", kernel: vlanFiltering},
	{name: "vlan and the default one", conf: lab.Conf{"vlan": 100, "preserveDefaultVlan": true}, leaves: vlanGateway, needs: "vlan", kernel: vlanFiltering},
	{name: "vlan out of range", conf: lab.Conf{"vlan": 5000}, needs: "vlan", kernel: vlanFiltering},
	{name: "spoof check", conf: lab.Conf{"macspoofchk": true}, needs: "macspoofchk"},
	{name: "promiscuous", conf: lab.Conf{"promiscMode": true}, needs: "promiscMode"},
	{name: "promiscuous and hairpin", conf: lab.Conf{"promiscMode": true, "hairpinMode": true}, needs: "promiscMode"},
	{name: "isolated ports", conf: lab.Conf{"portIsolation": true}, needs: "portIsolation"},
	{name: "duplicate address detection", conf: lab.Conf{"enabledad": true}, ipam: ranges("fd88::/64"), needs: "enabledad"},
	{name: "link stays down", conf: lab.Conf{"disableContainerInterface": true, "ipam": lab.Conf{}, "isGateway": false}, needs: "disableContainerInterface"},
}
