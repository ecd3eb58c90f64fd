package netutil

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// AddFrameChain makes a chain of a bridge table, if needed, where all frames pass that ports receive, before
// any translation. Those for 01:80:c2:00:00:0x, which bridges keep for themselves (IEEE 802.1D, 7.12.6), do
// not pass here.
func (n *Nft) AddFrameChain(chain string) {
	n.lib().AddChain(&nftables.Chain{
		Table: n.table, Name: chain, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-300), // NF_BR_PRI_NAT_DST_BRIDGED
	})
}

// PortIn holds for frames from a port in a set of ports.
func PortIn(s PortSet) Part { return inSet(s, false, FieldInLink) }

// PairIn holds when the port and the field together are in a set.
func PairIn(f Field, s PortSet) Part { return inSet(s, false, FieldInLink, f) }

// PairNotIn holds when they are not.
func PairNotIn(f Field, s PortSet) Part { return inSet(s, true, FieldInLink, f) }

func inSet(s PortSet, invert bool, fields ...Field) Part {
	return append(loads(fields), &expr.Lookup{SourceRegister: firstRegister, SetName: s.Name, Invert: invert})
}
