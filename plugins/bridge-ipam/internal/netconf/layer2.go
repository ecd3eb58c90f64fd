package netconf

import "fmt"

// maxVLAN is the highest VLAN that a frame can name (IEEE 802.1Q).
const maxVLAN = 4094

// VLANs are those of a port. The zero value leaves VLANs alone.
type VLANs struct {
	Native          int // tag of what comes in without one; 0: none, or 1 with a Trunk
	Trunk           []VLANRange
	PreserveDefault bool // VLAN 1 stays on the port
}

// Used says whether the bridge has to look at VLANs.
func (v VLANs) Used() bool { return v.Native != 0 || len(v.Trunk) > 0 }

// VLANRange is from First to Last, both included.
type VLANRange struct{ First, Last int }

// rawLayer2 are the keys of the reference plugin bridge that concern frames, and two of ours: ipspoofchk and
// ipv6LinkLocal.
type rawLayer2 struct {
	Vlan                      int            `json:"vlan"`
	VlanTrunk                 []rawVLANRange `json:"vlanTrunk"`
	PreserveDefaultVlan       bool           `json:"preserveDefaultVlan"`
	MacSpoofChk               bool           `json:"macspoofchk"`
	IPSpoofChk                *bool          `json:"ipspoofchk"`
	PromiscMode               bool           `json:"promiscMode"`
	EnableDad                 bool           `json:"enabledad"`
	DisableContainerInterface bool           `json:"disableContainerInterface"`
	PortIsolation             bool           `json:"portIsolation"`
	GroupFwdMask              int            `json:"groupFwdMask"`
	IPv6LinkLocal             bool           `json:"ipv6LinkLocal"`
}

type rawVLANRange struct {
	ID    *int `json:"id"`
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
}

// layer2 needs the range sets.
func (p *parser) layer2(c *Config) {
	r := &p.raw
	c.PromiscMode, c.EnableDAD, c.PortIsolation = r.PromiscMode, r.EnableDad, r.PortIsolation
	c.LinkDown, c.LinkLocal = r.DisableContainerInterface, r.IPv6LinkLocal
	if r.PromiscMode && r.HairpinMode {
		p.fault("promiscMode true: excludes hairpinMode true, want one of them")
	}
	if c.LinkDown && (r.IPAM.Type != "" || len(c.Sets) > 0) {
		p.fault("disableContainerInterface true: excludes ipam, an interface that is down has no address")
	}
	if r.GroupFwdMask != 0 {
		p.unsupported = append(p.unsupported, fmt.Sprintf("groupFwdMask %d: not supported", r.GroupFwdMask))
	}
	p.vlans(c)
	p.spoofChecks(c)
}

func (p *parser) vlans(c *Config) {
	r := &p.raw
	c.VLANs = VLANs{Native: r.Vlan, PreserveDefault: r.PreserveDefaultVlan}
	if r.Vlan < 0 || r.Vlan > maxVLAN {
		p.fault("vlan %d: want 0 (none) to %d", r.Vlan, maxVLAN)
	}
	for i, t := range r.VlanTrunk {
		at := fmt.Sprintf("vlanTrunk[%d]", i)
		switch {
		case t.ID != nil && t.MinID == nil && t.MaxID == nil:
			p.vlanRange(c, at+".id", *t.ID, *t.ID)
		case t.ID == nil && t.MinID != nil && t.MaxID != nil:
			p.vlanRange(c, at+".minID and maxID", *t.MinID, *t.MaxID)
		default:
			p.fault("%s: want either id or both of minID and maxID", at)
		}
	}
	gateway := fmt.Sprintf("%s.%d", c.Bridge, r.Vlan)
	if r.Vlan != 0 && c.IsGateway && len(gateway) > maxInterfaceName {
		p.fault("bridge %q: too long, the gateway of vlan %d needs a link %q of at most %d bytes", c.Bridge, r.Vlan, gateway, maxInterfaceName)
	}
}

func (p *parser) vlanRange(c *Config, key string, first, last int) {
	if first < 1 || last > maxVLAN || first > last {
		p.fault("%s %d to %d: want 1 to %d, the smaller one first", key, first, last, maxVLAN)
		return
	}
	c.VLANs.Trunk = append(c.VLANs.Trunk, VLANRange{first, last})
}

// spoofChecks: macspoofchk turns the check of addresses on too, where there are addresses to check by.
func (p *parser) spoofChecks(c *Config) {
	c.CheckMAC = p.raw.MacSpoofChk
	known := (len(c.Sets) > 0 || p.raw.IPAM.Type != "") && len(c.VLANs.Trunk) == 0
	if p.raw.IPSpoofChk == nil {
		c.CheckAddrs = c.CheckMAC && known
		return
	}
	c.CheckAddrs = *p.raw.IPSpoofChk
	if c.CheckAddrs && !known {
		p.fault("ipspoofchk true: needs ipam and excludes vlanTrunk, or a pod's addresses are not known")
	}
}
