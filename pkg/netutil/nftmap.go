package netutil

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxComment is the longest comment that nft(8) shows, in bytes; the kernel has room for 256 with what is around it.
const maxComment = 127

// perMessage bounds the entries of one message: a list of them must fit into 64 KiB.
const perMessage = 200

// Kind is what one field of a key or of a value is.
type Kind int

// The kinds of fields.
const (
	KindProtocol Kind = iota
	KindPort
	KindAddr4
	KindAddr6
	KindLink
)

func (k Kind) lib() nftables.SetDatatype {
	return map[Kind]nftables.SetDatatype{
		KindProtocol: nftables.TypeInetProto, KindPort: nftables.TypeInetService, KindLink: nftables.TypeIFName,
		KindAddr4: nftables.TypeIPAddr, KindAddr6: nftables.TypeIP6Addr,
	}[k]
}

// Map names a hash of keys, or of keys with values, that are put together from fields: at most five each.
type Map struct {
	Name       string
	Key, Value []Kind // without Value it is a set
}

// Tuple is a key or a value: its fields one after the other, each padded to whole registers.
type Tuple []byte

// Protocol appends the number of a transport protocol.
func (t Tuple) Protocol(p uint8) Tuple { return append(t, p, 0, 0, 0) }

// Port appends a port.
func (t Tuple) Port(p uint16) Tuple { return append(binary.BigEndian.AppendUint16(t, p), 0, 0) }

// Addr appends an address.
func (t Tuple) Addr(a netip.Addr) Tuple { return append(t, a.AsSlice()...) }

// Link appends the name of a link.
func (t Tuple) Link(name string) Tuple {
	var b [unix.IFNAMSIZ]byte
	copy(b[:MaxName], name)
	return append(t, b[:]...)
}

// LinkOf is the name of the link that a tuple starts with.
func (t Tuple) LinkOf() string {
	name, _, _ := strings.Cut(string(t[:min(len(t), unix.IFNAMSIZ)]), "\x00")
	return name
}

// Entry is one element of a map. The comment is for people and for finding out whose it is.
type Entry struct {
	Key, Value Tuple
	Comment    string
}

func concat(kinds []Kind) nftables.SetDatatype {
	if len(kinds) == 1 {
		return kinds[0].lib()
	}
	var types []nftables.SetDatatype
	for _, k := range kinds {
		types = append(types, k.lib())
	}
	return nftables.MustConcatSetType(types...)
}

func (n *Nft) mapOf(m Map) *nftables.Set {
	s := &nftables.Set{Table: n.table, Name: m.Name, KeyType: concat(m.Key), Concatenation: len(m.Key) > 1}
	if len(m.Value) > 0 {
		s.IsMap, s.DataType = true, concat(m.Value)
	}
	return s
}

// AddMap makes an empty map if needed.
func (n *Nft) AddMap(m Map) { n.note(n.lib().AddSet(n.mapOf(m), nil)) }

// DeleteMap deletes a map that no rule refers to.
func (n *Nft) DeleteMap(m Map) { n.lib().DelSet(n.mapOf(m)) }

// AddEntries puts entries into a map. One that is there with the same value stays as it is, with its
// comment; with another value it fails Commit (EBUSY).
func (n *Nft) AddEntries(m Map, entries ...Entry) {
	n.inMessages(entries, func(list []nftables.SetElement) error { return n.lib().SetAddElements(n.mapOf(m), list) })
}

// DeleteEntries takes entries out of a map, by their keys; one that is not there is ErrNotFound.
func (n *Nft) DeleteEntries(m Map, entries ...Entry) {
	n.inMessages(entries, func(list []nftables.SetElement) error { return n.lib().SetDeleteElements(n.mapOf(m), list) })
}

func (n *Nft) inMessages(entries []Entry, queue func([]nftables.SetElement) error) {
	for len(entries) > 0 {
		part := entries[:min(len(entries), perMessage)]
		entries = entries[len(part):]
		list := make([]nftables.SetElement, 0, len(part))
		for _, e := range part {
			list = append(list, nftables.SetElement{Key: e.Key, Val: e.Value, Comment: e.Comment[:min(len(e.Comment), maxComment)]})
		}
		n.note(queue(list))
	}
}

// Entries lists a map; ErrNotFound when it is not there.
func (n *Nft) Entries(m Map) ([]Entry, error) {
	list, err := n.lib().GetSetElements(n.mapOf(m))
	if err != nil && !n.has(m) { // the library loses the errno
		return nil, fmt.Errorf("list nftables map %s: %w", m.Name, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables map %s: %w", m.Name, classify(err))
	}
	out := make([]Entry, 0, len(list))
	for _, e := range list {
		out = append(out, Entry{Key: e.Key, Value: e.Val, Comment: strings.TrimRight(e.Comment, "\x00")})
	}
	return out, nil
}

// Entry finds one entry, in a time that does not depend on the map's size. A map that is not there has none: the
// kernel says the same of both, and telling them apart takes another request; see HasAddr.
func (n *Nft) Entry(m Map, key Tuple) (e Entry, found bool, err error) {
	answers, err := n.element(m.Name, key)
	if errors.Is(err, unix.ENOENT) {
		return e, false, nil
	}
	if err == nil && len(answers) == 1 {
		e, err = parseEntry(answers[0])
	}
	if err != nil || len(answers) != 1 {
		return e, false, fmt.Errorf("find an entry of nftables map %s: %d answers, %w", m.Name, len(answers), classify(err))
	}
	return e, true, nil
}

func (n *Nft) has(m Map) bool {
	_, err := n.lib().GetSetByName(n.table, m.Name)
	return err == nil
}

// element asks for one element of a set or map.
func (n *Nft) element(set string, key []byte) ([][]byte, error) {
	list := nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, nil)
	list.AddRtAttr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, nil).
		AddRtAttr(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, nil).
		AddRtAttr(unix.NFTA_DATA_VALUE, key)
	return n.request(unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK,
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(n.table.Name)),
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(set)), list)
}

// parseEntry reads the answer to element.
func parseEntry(msg []byte) (Entry, error) {
	path := msg[min(len(msg), nl.SizeofNfgenmsg):]
	for _, kind := range []uint16{unix.NFTA_SET_ELEM_LIST_ELEMENTS, unix.NFTA_LIST_ELEM} {
		attrs, err := attributes(path)
		if err != nil {
			return Entry{}, err
		}
		path = attrs[kind]
	}
	var e Entry
	attrs, err := attributes(path)
	if err != nil {
		return e, err
	}
	for kind, into := range map[uint16]*Tuple{unix.NFTA_SET_ELEM_KEY: &e.Key, unix.NFTA_SET_ELEM_DATA: &e.Value} {
		inner, err := attributes(attrs[kind])
		if err != nil {
			return e, err
		}
		*into = inner[unix.NFTA_DATA_VALUE]
	}
	comment, _ := userdata.GetString(attrs[unix.NFTA_SET_ELEM_USERDATA], userdata.NFTNL_UDATA_SET_ELEM_COMMENT)
	e.Comment = strings.TrimRight(comment, "\x00")
	return e, nil
}
