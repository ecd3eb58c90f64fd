package netconf

import (
	"encoding/json"
	"net"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/jsontext"
)

// The keys of raw and rawTeardown once more, for jsontext: TestRead finds one that is missing.

// read reads a configuration without reflection, where it is an ordinary one. Else it leaves into as it is.
func read[T any](data []byte, into *T, members func(*T) []jsontext.Member) bool {
	var out T
	ok := jsontext.Read(data, func(r *jsontext.Reader) bool { return r.Object(members(&out)...) })
	if ok {
		*into = out
	}
	return ok
}

func text(into *string) func(*jsontext.Reader) bool {
	return func(r *jsontext.Reader) (ok bool) { *into, ok = r.Text(); return ok }
}

func flag(into *bool) func(*jsontext.Reader) bool {
	return func(r *jsontext.Reader) (ok bool) { *into, ok = r.Bool(); return ok }
}

func number(into *int) func(*jsontext.Reader) bool {
	return func(r *jsontext.Reader) (ok bool) { *into, ok = r.Int(); return ok }
}

func asItStands(into *json.RawMessage) func(*jsontext.Reader) bool {
	return func(r *jsontext.Reader) (ok bool) { *into, ok = r.Raw(); return ok }
}

// optional is for what has to be told from an absent key.
func optional[T any](into **T, read func(*T) func(*jsontext.Reader) bool) func(*jsontext.Reader) bool {
	return func(r *jsontext.Reader) bool { *into = new(T); return read(*into)(r) }
}

func object(members ...jsontext.Member) func(*jsontext.Reader) bool {
	return func(r *jsontext.Reader) bool { return r.Object(members...) }
}

// list reads elements of one kind.
func list[T any](into *[]T, element func(*T) func(*jsontext.Reader) bool) func(*jsontext.Reader) bool {
	return func(r *jsontext.Reader) bool {
		*into = []T{}
		return r.Array(func() bool {
			var v T
			ok := element(&v)(r)
			*into = append(*into, v)
			return ok
		})
	}
}

func (r *rawIdentity) members() []jsontext.Member {
	return []jsontext.Member{
		{Key: "cniVersion", Read: text(&r.CNIVersion)}, {Key: "name", Read: text(&r.Name)}, {Key: "bridge", Read: text(&r.Bridge)},
		{Key: "type", Read: text(&r.Type)}, {Key: "mode", Read: text(&r.Mode)},
	}
}

func (r *rawTeardown) members() []jsontext.Member {
	return append(r.rawIdentity.members(),
		jsontext.Member{Key: "ipam", Read: object(
			jsontext.Member{Key: "type", Read: text(&r.IPAM.Type)}, jsontext.Member{Key: "dataDir", Read: text(&r.IPAM.DataDir)})},
		jsontext.Member{Key: "runtimeConfig", Read: object(
			jsontext.Member{Key: "io.podwright.netns-destroyed", Read: flag(&r.RuntimeConfig.NetnsDestroyed)})},
		jsontext.Member{Key: "cni.dev/valid-attachments", Read: asItStands(&r.Valid)},
		jsontext.Member{Key: "cni.dev/attachments", Read: asItStands(&r.OldValid)},
	)
}

func (r *raw) members() []jsontext.Member {
	out := append(r.rawIdentity.members(), []jsontext.Member{
		{Key: "isGateway", Read: flag(&r.IsGateway)}, {Key: "isDefaultGateway", Read: flag(&r.IsDefaultGateway)},
		{Key: "forceAddress", Read: flag(&r.ForceAddress)}, {Key: "ipMasq", Read: flag(&r.IPMasq)},
		{Key: "ipMasqBackend", Read: optional(&r.IPMasqBackend, text)}, {Key: "mtu", Read: number(&r.MTU)},
		{Key: "hairpinMode", Read: flag(&r.HairpinMode)}, {Key: "macspoofchk", Read: flag(&r.MacSpoofChk)},
		{Key: "ipspoofchk", Read: optional(&r.IPSpoofChk, flag)}, {Key: "promiscMode", Read: flag(&r.PromiscMode)},
		{Key: "snat", Read: optional(&r.SNAT, flag)}, {Key: "masqAll", Read: flag(&r.MasqAll)},
		{Key: "ipam", Read: object(r.IPAM.members()...)}, {Key: "runtimeConfig", Read: object(
			jsontext.Member{Key: "mac", Read: text(&r.RuntimeConfig.MAC)},
			jsontext.Member{Key: "ips", Read: list(&r.RuntimeConfig.IPs, text)},
			jsontext.Member{Key: "ipRanges", Read: list(&r.RuntimeConfig.IPRanges, rangeSet)},
			jsontext.Member{Key: "portMappings", Read: list(&r.RuntimeConfig.PortMappings, portMapping)},
			jsontext.Member{Key: "bandwidth"},
		)},
		{Key: "prevResult", Read: asItStands(&r.PrevResult)},
	}...)
	for _, rare := range []string{
		"args", "dns", "ingressRate", "ingressBurst", "egressRate", "egressBurst", "markMasqBit", "externalSetMarkChain", "backend",
		"conditionsV4", "conditionsV6", "vlan", "vlanTrunk", "preserveDefaultVlan", "enabledad", "disableContainerInterface",
		"portIsolation", "groupFwdMask", "ipv6LinkLocal",
	} {
		out = append(out, jsontext.Member{Key: rare})
	}
	return out
}

func (r *rawIPAM) members() []jsontext.Member {
	return append(r.rawRange.members(), []jsontext.Member{
		{Key: "type", Read: text(&r.Type)}, {Key: "ranges", Read: list(&r.Ranges, rangeSet)},
		{Key: "routes", Read: list(&r.Routes, asItStands)}, {Key: "dataDir", Read: text(&r.DataDir)},
		{Key: "resolvConf", Read: text(&r.ResolvConf)},
	}...)
}

func (r *rawRange) members() []jsontext.Member {
	return []jsontext.Member{
		{Key: "subnet", Read: text(&r.Subnet)}, {Key: "rangeStart", Read: text(&r.RangeStart)},
		{Key: "rangeEnd", Read: text(&r.RangeEnd)}, {Key: "gateway", Read: text(&r.Gateway)},
	}
}

func rangeSet(into *[]rawRange) func(*jsontext.Reader) bool {
	return list(into, func(r *rawRange) func(*jsontext.Reader) bool { return object(r.members()...) })
}

func portMapping(m *rawPortMapping) func(*jsontext.Reader) bool {
	return object(
		jsontext.Member{Key: "hostPort", Read: number(&m.HostPort)}, jsontext.Member{Key: "containerPort", Read: number(&m.ContainerPort)},
		jsontext.Member{Key: "protocol", Read: text(&m.Protocol)}, jsontext.Member{Key: "hostIP", Read: text(&m.HostIP)},
	)
}

// readRoute reads a route as json.Unmarshal does.
func readRoute(data []byte) (r types.Route, err error) {
	var dst, gw string
	common := jsontext.Read(data, object(
		jsontext.Member{Key: "dst", Read: text(&dst)}, jsontext.Member{Key: "gw", Read: text(&gw)},
		jsontext.Member{Key: "mtu", Read: number(&r.MTU)}, jsontext.Member{Key: "advmss", Read: number(&r.AdvMSS)},
		jsontext.Member{Key: "priority", Read: number(&r.Priority)},
		jsontext.Member{Key: "table", Read: optional(&r.Table, number)}, jsontext.Member{Key: "scope", Read: optional(&r.Scope, number)},
	))
	to, err := types.ParseCIDR(dst)
	if r.GW = net.ParseIP(gw); !common || err != nil || gw != "" && r.GW == nil {
		r = types.Route{}
		return r, json.Unmarshal(data, &r)
	}
	r.Dst = *to
	return r, nil
}
