package hostport

import (
	"net/netip"

	"github.com/podwright/podwright/pkg/netutil"
)

// Table is the name of the table, of family inet; masq has its chains there too.
const Table = "bridge-ipam"

// prefix starts the name of every chain and map of this package.
const prefix = "hostport-"

// Chains; doc.go says what each is for.
const (
	chainPre   = prefix + "prerouting"
	chainOut   = prefix + "output"
	chainDNAT  = prefix + "dnat"
	chainPost  = prefix + "postrouting"
	chainSNAT  = prefix + "snat"
	chainGuard = prefix + "guard"
)

// Priorities of netfilter_ipv4.h, with dstnat a little later than usual: services go before host ports
// (CVE-2019-9946).
const (
	priorityRaw     = -300
	priorityDestNAT = -100 + 5
	prioritySrcNAT  = 100
)

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// rule is one rule of a chain.
type rule struct {
	chain string
	parts []netutil.Part
}

// rules are all rules, in the order of each chain.
func rules() []rule {
	fromOutside := []netutil.Part{netutil.IsFamily(false), netutil.NotFromLink("lo")}
	list := []rule{
		{chainPre, []netutil.Part{netutil.ToThisNode(), netutil.Jump(chainDNAT)}},
		{chainOut, []netutil.Part{netutil.ToThisNode(), netutil.Jump(chainDNAT)}},
		{chainPost, []netutil.Part{netutil.IsDestTranslated(), netutil.Jump(chainSNAT)}},
		{chainGuard, append(fromOutside, netutil.IsIn(netutil.FieldDest4, loopback4), netutil.Drop())},
		{chainGuard, append(fromOutside[:2:2], netutil.IsIn(netutil.FieldSource4, loopback4), netutil.Drop())},
	}
	for _, f := range families {
		list = append(list, f.dnat()...)
		list = append(list, f.sourceNAT()...)
	}
	return list
}

// dnat: an address of the node goes before all addresses, and ::1 is for itself.
func (f family) dnat() []rule {
	proto, port := netutil.FieldProtocol, netutil.FieldDestPort
	is, dest := netutil.IsFamily(f.v6), f.dest()
	list := []rule{{chainDNAT, []netutil.Part{is, netutil.DNATBy(f.addr, f.v6, proto, dest, port)}}}
	if f.v6 {
		self := netutil.IsIn(dest, loopback6)
		list = append(list,
			rule{chainDNAT, []netutil.Part{is, self, netutil.DNATBy(f.loop, f.v6, proto, port)}},
			rule{chainDNAT, []netutil.Part{is, self, netutil.Return()}})
	}
	return append(list, rule{chainDNAT, []netutil.Part{is, netutil.DNATBy(f.any, f.v6, proto, port)}})
}

// sourceNAT: what comes from loopback, by the pod's own link, from the pod itself, or is to be masqueraded
// wherever it comes from. A bridge that calls iptables shows no link that a packet came by, and needs none.
func (f family) sourceNAT() []rule {
	proto, port := netutil.FieldProtocol, netutil.FieldDestPort
	is, dest, source, loopback := netutil.IsFamily(f.v6), f.dest(), netutil.FieldSource4, loopback4
	if f.v6 {
		source, loopback = netutil.FieldSource6, loopback6
	}
	var list []rule
	for _, parts := range [][]netutil.Part{
		{netutil.IsIn(source, loopback), netutil.HasKey(f.snat, netutil.FieldOutLink, dest, proto, port)},
		{netutil.HasKey(f.snat, netutil.FieldInLink, dest, proto, port)},
		{netutil.HasKey(f.self, source, dest)},
		{netutil.HasKey(f.all, dest, proto, port)},
	} {
		list = append(list, rule{chainSNAT, append(append([]netutil.Part{is}, parts...), netutil.Masquerade())})
	}
	return list
}

func (f family) dest() netutil.Field {
	if f.v6 {
		return netutil.FieldDest6
	}
	return netutil.FieldDest4
}

// create queues all that is missing of table, chains and maps, and the rules anew.
func create(nft *netutil.Nft) {
	nft.AddTable()
	for _, f := range families {
		for _, m := range f.maps() {
			nft.AddMap(m)
		}
	}
	nft.AddChain(chainDNAT)
	nft.AddChain(chainSNAT)
	nft.AddHooked(chainPre, netutil.TranslatePrerouting(priorityDestNAT))
	nft.AddHooked(chainOut, netutil.TranslateOutput(priorityDestNAT))
	nft.AddHooked(chainPost, netutil.TranslatePostrouting(prioritySrcNAT))
	nft.AddHooked(chainGuard, netutil.FilterPrerouting(priorityRaw))
	for _, chain := range chains {
		nft.FlushChain(chain)
	}
	for _, r := range rules() {
		nft.AddRule(r.chain, "", r.parts...)
	}
}

// chains lists the chains, those that jump before those that are jumped to.
var chains = []string{chainPre, chainOut, chainPost, chainGuard, chainDNAT, chainSNAT}

// remove queues the deletion of all that create makes, but for the table.
func remove(nft *netutil.Nft) {
	for _, chain := range chains {
		nft.FlushChain(chain)
	}
	for _, chain := range chains {
		nft.DeleteChain(chain)
	}
	for _, f := range families {
		for _, m := range f.maps() {
			nft.DeleteMap(m)
		}
	}
}

// intact says whether all rules are there; with them are the chains and the maps they refer to.
func intact(nft *netutil.Nft) (whole bool, err error) {
	have, err := nft.RuleCounts()
	if err != nil {
		return false, err
	}
	want := map[string]int{}
	for _, r := range rules() {
		want[r.chain]++
	}
	for chain, count := range want {
		if have[chain] != count {
			return false, nil
		}
	}
	return true, nil
}
