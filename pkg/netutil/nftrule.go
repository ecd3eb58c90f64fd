package netutil

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// AddFrameChain makes a chain of a bridge table, if needed, where all frames pass that ports receive, before
// any translation. Those for 01:80:c2:00:00:0x, which bridges keep for themselves (IEEE 802.1D, 7.12.6), do
// not pass here.
func (n *Nft) AddFrameChain(chain string) {
	n.conn.AddChain(&nftables.Chain{
		Table: n.table, Name: chain, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-300), // NF_BR_PRI_NAT_DST_BRIDGED
	})
}

// AddChain makes a chain that rules send frames to, if needed.
func (n *Nft) AddChain(chain string) {
	n.conn.AddChain(&nftables.Chain{Table: n.table, Name: chain})
}

// Field is a part of a frame.
type Field struct {
	base           expr.PayloadBase
	offset, length uint32
}

// Fields of Ethernet (IEEE 802.3), ARP for IPv4 (RFC 826), IPv4, IPv6, and of what they carry. FrameType is
// that of the VLAN tag where there is one.
var (
	FrameFrom    = Field{expr.PayloadBaseLLHeader, 6, 6}
	FrameType    = Field{expr.PayloadBaseLLHeader, 12, 2}
	ARPFormat    = Field{expr.PayloadBaseNetworkHeader, 0, 6} // hardware, protocol, the length of their addresses
	ARPOperation = Field{expr.PayloadBaseNetworkHeader, 6, 2}
	ARPFromMAC   = Field{expr.PayloadBaseNetworkHeader, 8, 6}
	ARPFromIP    = Field{expr.PayloadBaseNetworkHeader, 14, 4}
	IPv4From     = Field{expr.PayloadBaseNetworkHeader, 12, 4}
	IPv6From     = Field{expr.PayloadBaseNetworkHeader, 8, 16}
	UDPFromPort  = Field{expr.PayloadBaseTransportHeader, 0, 2}
	ICMPType     = Field{expr.PayloadBaseTransportHeader, 0, 1}
	NDTarget     = Field{expr.PayloadBaseTransportHeader, 8, 16} // RFC 4861, 4.3 and 4.4
)

func (f Field) load(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: f.base, Offset: f.offset, Len: f.length}
}

// Match is a condition of a rule.
type Match []expr.Any

// Is holds when a field has a value, given in network order.
func Is(f Field, value ...byte) Match {
	return Match{f.load(1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

// IsNot holds when a field has another value.
func IsNot(f Field, value ...byte) Match {
	return Match{f.load(1), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: value}}
}

// Protocol holds for what IPv4, or IPv6 behind all its extension headers, carries.
func Protocol(number byte) Match {
	return Match{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}
}

// PortIn holds for frames from a port in a set of Ports.
func PortIn(s PortSet) Match {
	return Match{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: s.Name},
	}
}

// PairIn holds when the port and the field together are in a set; PairNotIn when they are not.
func PairIn(f Field, s PortSet) Match { return pair(f, s, false) }

// PairNotIn is the opposite of PairIn.
func PairNotIn(f Field, s PortSet) Match { return pair(f, s, true) }

// pair: the name fills register 1, so that the field continues the key in register 2.
func pair(f Field, s PortSet, invert bool) Match {
	return Match{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		f.load(unix.NFT_REG_2),
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: s.Name, Invert: invert},
	}
}

// Verdict is what becomes of a frame for which all matches of a rule hold.
type Verdict []expr.Any

// Drop counts the frame and drops it; Accept ends the table's chains at this hook.
var (
	Drop   = Verdict{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	Accept = Verdict{&expr.Verdict{Kind: expr.VerdictAccept}}
)

// Goto goes on in another chain and does not come back.
func Goto(chain string) Verdict {
	return Verdict{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// AddRule appends a rule. A match that needs a part that the frame does not have does not hold.
func (n *Nft) AddRule(chain, comment string, v Verdict, matches ...Match) {
	var exprs []expr.Any
	for _, m := range matches {
		exprs = append(exprs, m...)
	}
	n.conn.AddRule(&nftables.Rule{
		Table: n.table, Chain: &nftables.Chain{Table: n.table, Name: chain},
		UserData: userdata.AppendString(nil, userdata.TypeComment, comment),
		Exprs:    append(exprs, v...),
	})
}
