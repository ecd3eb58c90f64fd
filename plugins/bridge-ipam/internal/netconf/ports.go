package netconf

import (
	"fmt"
	"net/netip"
	"strings"
)

// PortMapping is a wish for one port of the node.
type PortMapping struct {
	Protocol      string     // "tcp", "udp" or "sctp"
	HostIP        netip.Addr // invalid: every address of both families; unspecified: of its family
	HostPort      uint16
	ContainerPort uint16
}

// HostPorts are the keys of the reference plugin portmap.
type HostPorts struct {
	Mappings []PortMapping
	SNAT     bool // translate the source where answers would not come back otherwise
	MasqAll  bool // with SNAT: translate every source
}

// rawPortmap are the static keys of portmap.
type rawPortmap struct {
	SNAT                 *bool     `json:"snat"`
	MasqAll              bool      `json:"masqAll"`
	MarkMasqBit          *int      `json:"markMasqBit"`
	ExternalSetMarkChain *string   `json:"externalSetMarkChain"`
	Backend              *string   `json:"backend"`
	ConditionsV4         *[]string `json:"conditionsV4"`
	ConditionsV6         *[]string `json:"conditionsV6"`
}

type rawPortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

const maxPort = 65535

// hostPorts validates the keys of portmap; DECISIONS.md says what becomes of each.
func (p *parser) hostPorts() HostPorts {
	r := &p.raw.rawPortmap
	out := HostPorts{SNAT: r.SNAT == nil || *r.SNAT, MasqAll: r.MasqAll}
	p.portmapKeys()
	seen := map[PortMapping]uint16{}
	for i, m := range p.raw.RuntimeConfig.PortMappings {
		at := fmt.Sprintf("runtimeConfig.portMappings[%d]", i)
		mapping, ok := p.portMapping(at, m)
		if !ok {
			continue
		}
		key := mapping
		key.ContainerPort = 0
		if before, twice := seen[key]; twice {
			if before != mapping.ContainerPort {
				p.fault("%s: hostPort %d/%s leads to containerPort %d already", at, m.HostPort, mapping.Protocol, before)
			}
			continue
		}
		seen[key] = mapping.ContainerPort
		out.Mappings = append(out.Mappings, mapping)
	}
	return out
}

func (p *parser) portmapKeys() {
	r := &p.raw.rawPortmap
	if b := r.Backend; b != nil && *b != "" && *b != "iptables" && *b != "nftables" {
		p.fault("backend %q: want \"nftables\" (or \"iptables\", which means the same here)", *b)
	}
	if b := r.MarkMasqBit; b != nil {
		if *b < 0 || *b > 31 {
			p.fault("markMasqBit %d: want 0 to 31", *b)
		}
		p.warnings = append(p.warnings, fmt.Sprintf("markMasqBit %d: not used, packets are not marked", *b))
	}
	if c := r.ExternalSetMarkChain; c != nil && *c != "" {
		p.unsupported = append(p.unsupported,
			fmt.Sprintf("externalSetMarkChain %q: not supported, it names a chain of iptables", *c))
	}
	for key, list := range map[string]*[]string{"conditionsV4": r.ConditionsV4, "conditionsV6": r.ConditionsV6} {
		if list != nil && strings.Join(*list, "") != "" {
			p.unsupported = append(p.unsupported,
				fmt.Sprintf("%s %q: not supported, they are text for the programs iptables and nft", key, *list))
		}
	}
}

// portMapping validates one wish; host port 0 is none.
func (p *parser) portMapping(at string, m rawPortMapping) (out PortMapping, ok bool) {
	if m.HostPort == 0 {
		return out, false
	}
	before := len(p.faults)
	for _, port := range []struct {
		key   string
		value int
	}{{"hostPort", m.HostPort}, {"containerPort", m.ContainerPort}} {
		if port.value < 1 || port.value > maxPort {
			p.fault("%s.%s %d: want 1 to %d", at, port.key, port.value, maxPort)
		}
	}
	out = PortMapping{Protocol: strings.ToLower(m.Protocol), HostPort: uint16(m.HostPort), ContainerPort: uint16(m.ContainerPort)}
	switch out.Protocol {
	case "tcp", "udp", "sctp":
	default:
		p.fault("%s.protocol %q: want \"tcp\", \"udp\" or \"sctp\"", at, m.Protocol)
	}
	out.HostIP = p.addr(at+".hostIP", m.HostIP)
	if a := out.HostIP; a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		p.fault("%s.hostIP %s: want an address that a node can have", at, a)
	}
	return out, len(p.faults) == before
}
