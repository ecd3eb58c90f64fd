package netutil

import (
	"math"
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
	n.lib().AddChain(&nftables.Chain{
		Table: n.table, Name: chain, Type: h.kind, Hooknum: h.point, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(h.priority)),
	})
}

// AddChain makes a chain that others jump to, if needed.
func (n *Nft) AddChain(chain string) { n.lib().AddChain(&nftables.Chain{Table: n.table, Name: chain}) }

// FlushChain deletes the rules of a chain.
func (n *Nft) FlushChain(chain string) {
	n.lib().FlushChain(&nftables.Chain{Table: n.table, Name: chain})
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
	n.lib().AddRule(r)
}

// Field is a field of a packet or a frame. An address is of the family that the conditions before have asked for.
type Field struct {
	key            expr.MetaKey // where offset is meta
	base           expr.PayloadBase
	offset, length uint32 // bytes
}

// meta as a Field's offset says that the kernel knows the field beside the packet.
const meta = math.MaxUint32

func header(base expr.PayloadBase, offset, length uint32) Field {
	return Field{base: base, offset: offset, length: length}
}

func beside(key expr.MetaKey, length uint32) Field {
	return Field{key: key, offset: meta, length: length}
}

// The fields of packets: IPv4 (RFC 791), IPv6 (RFC 8200), and what they carry.
var (
	FieldProtocol   = beside(expr.MetaKeyL4PROTO, 1)             // behind all extension headers
	FieldInLink     = beside(expr.MetaKeyIIFNAME, unix.IFNAMSIZ) // empty for what the node itself sends
	FieldOutLink    = beside(expr.MetaKeyOIFNAME, unix.IFNAMSIZ) // known from the routing on
	FieldSource4    = header(expr.PayloadBaseNetworkHeader, 12, 4)
	FieldSource6    = header(expr.PayloadBaseNetworkHeader, 8, 16)
	FieldDest4      = header(expr.PayloadBaseNetworkHeader, 16, 4)
	FieldDest6      = header(expr.PayloadBaseNetworkHeader, 24, 16)
	FieldSourcePort = header(expr.PayloadBaseTransportHeader, 0, 2)
	FieldDestPort   = header(expr.PayloadBaseTransportHeader, 2, 2)
	FieldICMPType   = header(expr.PayloadBaseTransportHeader, 0, 1)
	FieldNDTarget   = header(expr.PayloadBaseTransportHeader, 8, 16) // RFC 4861, 4.3 and 4.4
)

// The fields of frames: Ethernet (IEEE 802.3), and ARP for IPv4 (RFC 826).
var (
	FieldFrameSource  = header(expr.PayloadBaseLLHeader, 6, 6)
	FieldFrameType    = header(expr.PayloadBaseLLHeader, 12, 2)     // that of the VLAN tag where there is one
	FieldARPFormat    = header(expr.PayloadBaseNetworkHeader, 0, 6) // hardware, protocol, the length of their addresses
	FieldARPOperation = header(expr.PayloadBaseNetworkHeader, 6, 2)
	FieldARPSourceMAC = header(expr.PayloadBaseNetworkHeader, 8, 6)
	FieldARPSource    = header(expr.PayloadBaseNetworkHeader, 14, 4)
)

// load puts a field into a register and says how many registers of 4 bytes it takes.
func (f Field) load(register uint32) (expr.Any, uint32) {
	width := (f.length + 3) / 4
	if f.offset == meta {
		return &expr.Meta{Key: f.key, Register: register}, width
	}
	return &expr.Payload{DestRegister: register, Base: f.base, Offset: f.offset, Len: f.length}, width
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

// Is holds when a field has a value, given in network order. A field that the packet does not have has none.
func Is(f Field, value ...byte) Part { return compare(f, expr.CmpOpEq, value) }

// IsNot holds when a field has another value.
func IsNot(f Field, value ...byte) Part { return compare(f, expr.CmpOpNeq, value) }

func compare(f Field, op expr.CmpOp, value []byte) Part {
	e, _ := f.load(1)
	return Part{e, &expr.Cmp{Op: op, Register: 1, Data: value}}
}

// IsFamily holds for packets of one family.
func IsFamily(v6 bool) Part { return Is(beside(expr.MetaKeyNFPROTO, 1), protocolFamily(v6)) }

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
func NotFromLink(name string) Part { return IsNot(FieldInLink, Tuple{}.Link(name)...) }

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

// Drop counts the packet and ends it.
func Drop() Part { return Part{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}} }

// Accept ends the table's chains at this hook.
func Accept() Part { return Part{&expr.Verdict{Kind: expr.VerdictAccept}} }

// Return goes back to the chain that jumped here.
func Return() Part { return Part{&expr.Verdict{Kind: expr.VerdictReturn}} }

// Goto goes on in another chain and does not come back.
func Goto(chain string) Part { return Part{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

// Jump goes to another chain.
func Jump(chain string) Part { return Part{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }
