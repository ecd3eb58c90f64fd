package netutil

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// OpenNftBridge opens a connection for one table of family bridge: its chains see the frames that arrive
// at the ports of bridges. See OpenNft.
func OpenNftBridge(table string) (*Nft, error) {
	n, err := OpenNft(table)
	if err == nil {
		n.table.Family = nftables.TableFamilyBridge
	}
	return n, err
}

// PortKeys says what a PortSet holds.
type PortKeys int

// A port alone, or a port together with something that frames from it may have.
const (
	Ports PortKeys = iota
	PortMACs
	PortAddrs4
	PortAddrs6
)

// PortSet names a set of ports.
type PortSet struct {
	Name string
	Keys PortKeys
}

// PortKey is one element of a PortSet: the name of a port and, by the set's Keys, a MAC or an address.
type PortKey struct {
	Port string
	MAC  net.HardwareAddr
	Addr netip.Addr
}

// String is for messages.
func (k PortKey) String() string {
	switch {
	case k.MAC != nil:
		return k.Port + " with " + k.MAC.String()
	case k.Addr.IsValid():
		return k.Port + " with " + k.Addr.String()
	}
	return k.Port
}

// second is what stands beside the port's name in each element.
var second = map[PortKeys]nftables.SetDatatype{
	PortMACs: nftables.TypeEtherAddr, PortAddrs4: nftables.TypeIPAddr, PortAddrs6: nftables.TypeIP6Addr,
}

func (n *Nft) portSet(s PortSet) (*nftables.Set, error) {
	set := &nftables.Set{Table: n.table, Name: s.Name, KeyType: nftables.TypeIFName}
	if s.Keys == Ports {
		set.KeyByteOrder = binaryutil.NativeEndian // nft shows names by it
		return set, nil
	}
	var err error
	set.Concatenation = true
	set.KeyType, err = nftables.ConcatSetType(nftables.TypeIFName, second[s.Keys])
	return set, err
}

// bytes is the key as the kernel compares it: each part padded to whole registers of 4 bytes.
func (k PortKey) bytes(of PortKeys) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, k.Port)
	switch of {
	case PortMACs:
		b = append(append(b, k.MAC...), 0, 0)
	case PortAddrs4, PortAddrs6:
		b = append(b, k.Addr.AsSlice()...)
	}
	return b
}

// AddPortSet makes an empty set if needed.
func (n *Nft) AddPortSet(s PortSet) {
	set, err := n.portSet(s)
	if err == nil {
		err = n.lib().AddSet(set, nil)
	}
	n.note(err)
}

// DeletePortSet deletes a set that no rule refers to.
func (n *Nft) DeletePortSet(s PortSet) {
	n.lib().DelSet(&nftables.Set{Table: n.table, Name: s.Name})
}

// AddPorts puts elements into a set. Being there already is success.
func (n *Nft) AddPorts(s PortSet, keys ...PortKey) {
	for chunk := range slices.Chunk(keys, perMessage) {
		n.note(n.lib().SetAddElements(&nftables.Set{Table: n.table, Name: s.Name}, portElements(s, chunk)))
	}
}

// DeletePorts takes elements out of a set; one that is not there is ErrNotFound.
func (n *Nft) DeletePorts(s PortSet, keys ...PortKey) {
	for chunk := range slices.Chunk(keys, perMessage) {
		n.note(n.lib().SetDeleteElements(&nftables.Set{Table: n.table, Name: s.Name}, portElements(s, chunk)))
	}
}

func portElements(s PortSet, keys []PortKey) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, len(keys))
	for _, k := range keys {
		out = append(out, nftables.SetElement{Key: k.bytes(s.Keys)})
	}
	return out
}

// HasPorts says whether a set holds exactly these elements. A set that is not there is ErrNotFound.
func (n *Nft) HasPorts(s PortSet, keys ...PortKey) (bool, error) {
	if _, err := n.lib().GetSetByName(n.table, s.Name); err != nil {
		return false, fmt.Errorf("find nftables set %s: %w", s.Name, errdefs.ErrNotFound)
	}
	list, err := n.lib().GetSetElements(&nftables.Set{Table: n.table, Name: s.Name})
	if err != nil {
		return false, fmt.Errorf("list nftables set %s: %w", s.Name, classify(err))
	}
	want := map[string]bool{}
	for _, k := range keys {
		want[string(k.bytes(s.Keys))] = true
	}
	for _, e := range list {
		if !want[string(e.Key)] {
			return false, nil
		}
	}
	return len(list) == len(want), nil
}

// HasPort says whether an element is in a set; see HasAddr.
func (n *Nft) HasPort(s PortSet, k PortKey) (bool, error) {
	return n.hasElement(s.Name, k.bytes(s.Keys))
}

// hasElement finds one element, in a time that does not depend on the set's size. It is ErrNotFound when
// the set is not there. The library has no such request and loses the errno of others.
func (n *Nft) hasElement(set string, key []byte) (bool, error) {
	_, err := n.element(set, key)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("find element of nftables set %s: %w", set, classify(err))
	}
	// ENOENT is the set's or the element's: only a set that is there can be asked for by name.
	if _, err := n.lib().GetSetByName(n.table, set); err != nil {
		return false, fmt.Errorf("find nftables set %s: %w", set, errdefs.ErrNotFound)
	}
	return false, nil
}
