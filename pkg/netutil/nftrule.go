package netutil

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// firstRegister is NFT_REG32_00: fields of a key lie one after the other from here on.
const firstRegister = 8

// ctStatusDNAT is IPS_DST_NAT of nf_conntrack_common.h.
const ctStatusDNAT = 1 << 5

// Hook is where a chain sees packets.
type Hook struct {
	point    *nftables.ChainHook
	kind     nftables.ChainType
	priority int32
}

// TranslatePrerouting is for destinations of what comes in. Like all Translate hooks it sees the first packet
// of each flow; of the chains at one point the first that translates wins.
func TranslatePrerouting(priority int32) Hook {
	return Hook{nftables.ChainHookPrerouting, nftables.ChainTypeNAT, priority}
}

// TranslateOutput is for what the node itself sends; see TranslatePrerouting.
func TranslateOutput(priority int32) Hook {
	return Hook{nftables.ChainHookOutput, nftables.ChainTypeNAT, priority}
}

// TranslatePostrouting is for sources; see TranslatePrerouting.
func TranslatePostrouting(priority int32) Hook {
	return Hook{nftables.ChainHookPostrouting, nftables.ChainTypeNAT, priority}
}

// FilterPrerouting is for every packet that comes in.
func FilterPrerouting(priority int32) Hook {
	return Hook{nftables.ChainHookPrerouting, nftables.ChainTypeFilter, priority}
}

// AddHooked makes a chain at a hook, if needed.
func (n *Nft) AddHooked(chain string, h Hook) {
	n.conn.AddChain(&nftables.Chain{
		Table: n.table, Name: chain, Type: h.kind, Hooknum: h.point, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(h.priority)),
	})
}

// AddChain makes a chain that others jump to, if needed.
func (n *Nft) AddChain(chain string) { n.conn.AddChain(&nftables.Chain{Table: n.table, Name: chain}) }

// FlushChain deletes the rules of a chain.
func (n *Nft) FlushChain(chain string) {
	n.conn.FlushChain(&nftables.Chain{Table: n.table, Name: chain})
}

// Part is a piece of a rule: a condition, or what is done when all conditions before it hold.
type Part []expr.Any

// AddRule appends a rule to a chain.
func (n *Nft) AddRule(chain, comment string, parts ...Part) {
	r := &nftables.Rule{Table: n.table, Chain: &nftables.Chain{Table: n.table, Name: chain}}
	if comment != "" {
		r.UserData = userdata.AppendString(nil, userdata.TypeComment, comment)
	}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	n.conn.AddRule(r)
}

// Field is a field of a packet.
type Field int

// The fields of packets. An address is of the family that IsFamily asked for before.
const (
	FieldProtocol Field = iota
	FieldDestPort
	FieldSource4
	FieldSource6
	FieldDest4
	FieldDest6
	FieldInLink  // empty for what the node itself sends
	FieldOutLink // known from the routing on
)

// load puts a field into a register and says how many registers it takes.
func (f Field) load(register uint32) (expr.Any, uint32) {
	header := func(base expr.PayloadBase, offset, length uint32) (expr.Any, uint32) {
		return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}, (length + 3) / 4
	}
	switch f {
	case FieldDestPort:
		return header(expr.PayloadBaseTransportHeader, 2, 2)
	case FieldSource4:
		return header(expr.PayloadBaseNetworkHeader, 12, 4)
	case FieldSource6:
		return header(expr.PayloadBaseNetworkHeader, 8, 16)
	case FieldDest4:
		return header(expr.PayloadBaseNetworkHeader, 16, 4)
	case FieldDest6:
		return header(expr.PayloadBaseNetworkHeader, 24, 16)
	case FieldInLink:
		return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, unix.IFNAMSIZ / 4
	case FieldOutLink:
		return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, unix.IFNAMSIZ / 4
	default:
		return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, 1
	}
}

func loads(fields []Field) Part {
	var out Part
	register := uint32(firstRegister)
	for _, f := range fields {
		e, width := f.load(register)
		out = append(out, e)
		register += width
	}
	return out
}

// IsFamily holds for packets of one family.
func IsFamily(v6 bool) Part {
	return Part{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocolFamily(v6)}},
	}
}

func protocolFamily(v6 bool) byte {
	if v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// ToThisNode holds for destinations that are addresses of the node.
func ToThisNode() Part {
	return Part{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// IsDestTranslated holds for flows whose destination was translated.
func IsDestTranslated() Part {
	zero := binaryutil.NativeEndian.PutUint32(0)
	return Part{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ctStatusDNAT), Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero},
	}
}

// NotFromLink holds for packets that did not come by a link.
func NotFromLink(name string) Part {
	e, _ := FieldInLink.load(1)
	return Part{e, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: Tuple{}.Link(name)}}
}

// IsIn holds for packets with the address field f in a prefix.
func IsIn(f Field, p netip.Prefix) Part {
	first, last := p.Masked().Addr().AsSlice(), LastAddr(p).AsSlice()
	mask := make([]byte, len(first))
	for i := range mask {
		mask[i] = ^(first[i] ^ last[i])
	}
	e, _ := f.load(1)
	return Part{
		e,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(first)), Mask: mask, Xor: make([]byte, len(first))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: first},
	}
}

// HasKey holds for packets whose fields are a key of a map.
func HasKey(m Map, fields ...Field) Part {
	return append(loads(fields), &expr.Lookup{SourceRegister: firstRegister, SetName: m.Name})
}

// DNATBy holds like HasKey, and translates the destination to the value: an address and a port.
func DNATBy(m Map, v6 bool, fields ...Field) Part {
	port := uint32(firstRegister + 1)
	if v6 {
		port = firstRegister + 4
	}
	return append(loads(fields),
		&expr.Lookup{SourceRegister: firstRegister, SetName: m.Name, IsDestRegSet: true, DestRegister: firstRegister},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(protocolFamily(v6)), RegAddrMin: firstRegister, RegProtoMin: port})
}

// Masquerade gives the packet the address of the link it leaves by.
func Masquerade() Part { return Part{&expr.Masq{}} }

// Drop ends the packet.
func Drop() Part { return Part{&expr.Verdict{Kind: expr.VerdictDrop}} }

// Return goes back to the chain that jumped here.
func Return() Part { return Part{&expr.Verdict{Kind: expr.VerdictReturn}} }

// Jump goes to another chain.
func Jump(chain string) Part { return Part{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }
