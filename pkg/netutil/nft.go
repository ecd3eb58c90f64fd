package netutil

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Nft changes one nftables table of family inet in the caller's namespace. Methods without an error queue
// a change, Commit makes all queued changes at once or none of them. It is for one goroutine.
type Nft struct {
	conn  *nftables.Conn // nil until it is needed; see lib
	table *nftables.Table
	sock  *socket // for what the library has no request for; see request
	err   error
}

// OpenNft opens a connection for one table, which need not exist.
func OpenNft(table string) (*Nft, error) {
	sock, err := openSocket(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", classify(err))
	}
	return &Nft{sock: sock, table: &nftables.Table{Name: table, Family: nftables.TableFamilyINet}}, nil
}

// lib is the library's connection. Where there can be none, the library tries again with each request, which fails then.
func (n *Nft) lib() *nftables.Conn {
	if n.conn != nil {
		return n.conn
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(roomForChanges))
	if err != nil {
		conn, _ = nftables.New(nftables.WithSockOptions(roomForChanges)) // opens nothing yet
	}
	n.conn = conn
	return conn
}

// maxChanges is the room for the changes of one transaction, in bytes: those of some ten thousand elements. The
// kernel's default is 200 KiB.
const maxChanges = 8 << 20

func roomForChanges(conn *mdlayher.Conn) error { return conn.SetWriteBuffer(maxChanges) }

// Close drops what is queued. After a deletion, by whomever, it waits for a grace period of the kernel, some
// tens of milliseconds: so does the end of a process, and the close of any other netfilter socket.
func (n *Nft) Close() error {
	n.sock.close()
	if n.conn == nil {
		return nil
	}
	return n.conn.CloseLasting()
}

// EditNft hands a table that open opens to f, under the lock of the network namespace. That is given up first: see Close.
func EditNft(open func() (*Nft, error), f func(*Nft) error) error {
	nft, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = nft.Close() }()
	unlock, err := LockNS()
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	return f(nft)
}

// request sends one message about the table and returns the answers.
func (n *Nft) request(kind, flags int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	table := &nl.Nfgenmsg{NfgenFamily: uint8(n.table.Family), Version: nl.NFNETLINK_V0}
	return n.sock.request(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, append([]nl.NetlinkRequestData{table}, data...)...)
}

// Commit makes the queued changes. ErrNotFound: something that a change refers to is not there.
func (n *Nft) Commit() error {
	err := n.err
	if e := n.lib().Flush(); err == nil {
		err = e
	}
	n.err = nil
	if err != nil {
		return fmt.Errorf("change nftables table %s: %w", n.table.Name, classify(err))
	}
	return nil
}

// note keeps the first error of a queued change for Commit.
func (n *Nft) note(err error) {
	if n.err == nil {
		n.err = err
	}
}

// AddTable makes the table if needed.
func (n *Nft) AddTable() { n.lib().AddTable(n.table) }

// DeleteTable deletes the table with all that is in it.
func (n *Nft) DeleteTable() { n.lib().DelTable(n.table) }

// AddPostrouting makes a chain for source translation, if needed.
func (n *Nft) AddPostrouting(chain string) {
	n.lib().AddChain(&nftables.Chain{
		Table: n.table, Name: chain, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
}

// DeleteChain deletes a chain with its rules.
func (n *Nft) DeleteChain(chain string) {
	n.lib().DelChain(&nftables.Chain{Table: n.table, Name: chain})
}

// Set names a set of prefixes of one family.
type Set struct {
	Name string
	V6   bool
}

func (n *Nft) set(s Set) *nftables.Set {
	kind := nftables.TypeIPAddr
	if s.V6 {
		kind = nftables.TypeIP6Addr
	}
	return &nftables.Set{Table: n.table, Name: s.Name, KeyType: kind, Interval: true}
}

// AddSet makes an empty set if needed.
func (n *Nft) AddSet(s Set) { n.note(n.lib().AddSet(n.set(s), nil)) }

// FlushSet empties a set.
func (n *Nft) FlushSet(s Set) { n.lib().FlushSet(n.set(s)) }

// DeleteSet deletes a set that no rule refers to.
func (n *Nft) DeleteSet(s Set) { n.lib().DelSet(n.set(s)) }

// AddPrefixes puts prefixes, which must not overlap, into a set.
func (n *Nft) AddPrefixes(s Set, prefixes ...netip.Prefix) {
	var out []nftables.SetElement
	for _, p := range prefixes {
		first, last := p.Masked().Addr(), LastAddr(p)
		out = append(out, nftables.SetElement{Key: first.AsSlice()})
		if end := last.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	n.note(n.lib().SetAddElements(n.set(s), out))
}

// LastAddr is the highest address of a prefix.
func LastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// AddMasquerade appends a rule: what comes from a prefix in subnets and goes neither to one of them nor to a
// multicast group gets the address of the link it leaves by.
func (n *Nft) AddMasquerade(chain string, subnets Set, comment string) {
	family, source, length := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	multicast, mask := []byte{0xe0, 0, 0, 0}, []byte{0xf0, 0, 0, 0}
	if subnets.V6 {
		family, source, length = unix.NFPROTO_IPV6, 8, 16
		multicast, mask = append([]byte{0xff}, make([]byte, 15)...), append([]byte{0xff}, make([]byte, 15)...)
	}
	load := func(offset uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
	}
	n.lib().AddRule(&nftables.Rule{
		Table: n.table, Chain: &nftables.Chain{Table: n.table, Name: chain},
		UserData: userdata.AppendString(nil, userdata.TypeComment, comment[:min(len(comment), maxComment)]),
		Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
			load(source),
			&expr.Lookup{SourceRegister: 1, SetName: subnets.Name},
			load(source + length), // the destination follows the source
			&expr.Lookup{SourceRegister: 1, SetName: subnets.Name, Invert: true},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask, Xor: make([]byte, length)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: multicast},
			&expr.Masq{},
		},
	})
}

// Chains lists the names of the table's chains; none when there is no table. The library takes half a list for a whole
// one, see whole.
func (n *Nft) Chains() ([]string, error) {
	list, err := whole(func() ([][]byte, error) { return n.request(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP) })
	if err = absentOK(classify(err)); err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var names []string
	for _, c := range list {
		attrs, err := attributes(c[min(len(c), nl.SizeofNfgenmsg):])
		if err != nil {
			return nil, fmt.Errorf("list nftables chains: %w", err)
		}
		if textOf(attrs[unix.NFTA_CHAIN_TABLE]) == n.table.Name {
			names = append(names, textOf(attrs[unix.NFTA_CHAIN_NAME]))
		}
	}
	return names, nil
}

// textOf is a text attribute without its end.
func textOf(attr []byte) string {
	text, _, _ := strings.Cut(string(attr), "\x00")
	return text
}

// Rules counts the rules of a chain; ErrNotFound when there is no such chain.
func (n *Nft) Rules(chain string) (int, error) {
	rules, err := whole(func() ([][]byte, error) {
		return n.request(unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP,
			nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(n.table.Name)), nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(chain)))
	})
	if err != nil {
		return 0, fmt.Errorf("list rules of nftables chain %s: %w", chain, classify(err))
	}
	return len(rules), nil
}

// RuleCounts counts the rules of each chain of the table that has any.
func (n *Nft) RuleCounts() (map[string]int, error) {
	rules, err := whole(func() ([][]byte, error) {
		return n.request(unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(n.table.Name)))
	})
	if err = absentOK(classify(err)); err != nil {
		return nil, fmt.Errorf("list rules of nftables table %s: %w", n.table.Name, err)
	}
	out := map[string]int{}
	for _, r := range rules {
		attrs, err := attributes(r[min(len(r), nl.SizeofNfgenmsg):])
		if err != nil {
			return nil, fmt.Errorf("list rules of nftables table %s: %w", n.table.Name, err)
		}
		out[textOf(attrs[unix.NFTA_RULE_CHAIN])]++
	}
	return out, nil
}

// HasAddr says whether an address is in a prefix of a set, in a time that does not depend on the set's size. It is
// ErrNotFound when the set is not there. The library has no such request and loses the errno of others.
func (n *Nft) HasAddr(s Set, addr netip.Addr) (bool, error) {
	_, err := n.element(s.Name, addr.AsSlice())
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("find %s in nftables set %s: %w", addr, s.Name, classify(err))
	}
	// ENOENT is the set's or the element's: only a set that is there can be asked for by name.
	if _, err := n.lib().GetSetByName(n.table, s.Name); err != nil {
		return false, fmt.Errorf("find nftables set %s: %w", s.Name, errdefs.ErrNotFound)
	}
	return false, nil
}
