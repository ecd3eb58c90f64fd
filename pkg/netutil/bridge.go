package netutil

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of if_link.h and if_bridge.h that the library does not name.
const (
	iflaBrMultiBoolopt = 46
	brBooloptNoLLLearn = 0
	iflaBrportIsolated = 33
)

// changeBridge sets one attribute of a bridge.
func (h *Handle) changeBridge(index, attr int, value []byte) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(attr, value)
	_, err := h.request(unix.RTM_NEWLINK, unix.NLM_F_ACK, msg, info)
	return err
}

// KeepLinkLocal keeps a bridge from learning sources from frames for 01:80:c2:00:00:0x, which pass by all
// filters (Linux 5.0 and later).
func (h *Handle) KeepLinkLocal(index int) error {
	opt := append(nl.Uint32Attr(1<<brBooloptNoLLLearn), nl.Uint32Attr(1<<brBooloptNoLLLearn)...) // values, mask
	if err := h.changeBridge(index, iflaBrMultiBoolopt, opt); err != nil {
		return fmt.Errorf("turn link-local learning off on bridge number %d: %w", index, err)
	}
	return nil
}

// SetPromiscuous makes a link take all frames.
func (h *Handle) SetPromiscuous(index int) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Change, msg.Flags = int32(index), unix.IFF_PROMISC, unix.IFF_PROMISC
	if _, err := h.request(unix.RTM_SETLINK, unix.NLM_F_ACK, msg); err != nil {
		return fmt.Errorf("make link number %d promiscuous: %w", index, err)
	}
	return nil
}

// Promiscuous says whether a link was made to take all frames.
func (h *Handle) Promiscuous(index int) (bool, error) {
	l, err := ask(h, func(lib *netlink.Handle) (netlink.Link, error) { return lib.LinkByIndex(index) })
	if err != nil {
		return false, fmt.Errorf("find link number %d: %w", index, classify(err))
	}
	return l.Attrs().RawFlags&unix.IFF_PROMISC != 0, nil
}

// SetIsolated keeps frames of a bridge port from other isolated ports.
func (h *Handle) SetIsolated(index int) error {
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(iflaBrportIsolated, []byte{1})
	if _, err := h.request(unix.RTM_SETLINK, unix.NLM_F_ACK, msg, port); err != nil {
		return fmt.Errorf("isolate link number %d: %w", index, err)
	}
	return nil
}

// Isolated says whether a bridge port is isolated.
func (h *Handle) Isolated(index int) (bool, error) {
	p, err := ask(h, func(lib *netlink.Handle) (netlink.Protinfo, error) { return lib.LinkGetProtinfo(byIndex(index)) })
	if err != nil {
		return false, fmt.Errorf("find bridge port number %d: %w", index, classify(err))
	}
	return p.Isolated, nil
}

// ErrNoVLANs says that the kernel was built without VLANs on bridges. It is ErrNotImplemented.
var ErrNoVLANs error = noVLANsError{}

type noVLANsError struct{}

func (noVLANsError) Error() string {
	return "the kernel has no VLAN filtering on bridges (CONFIG_BRIDGE_VLAN_FILTERING): " + errdefs.ErrNotImplemented.Error()
}

func (noVLANsError) Unwrap() error { return errdefs.ErrNotImplemented }

// noVLANs turns how the kernel says so into ErrNoVLANs.
func noVLANs(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return ErrNoVLANs
	}
	return err
}

// FilterVLANs makes a bridge look at the VLANs of its ports.
func (h *Handle) FilterVLANs(index int) error {
	if err := noVLANs(h.changeBridge(index, nl.IFLA_BR_VLAN_FILTERING, []byte{1})); err != nil {
		return fmt.Errorf("filter VLANs on bridge number %d: %w", index, err)
	}
	return nil
}

// CanFilterVLANs is ErrNoVLANs when the kernel cannot.
func (h *Handle) CanFilterVLANs(index int) error {
	l, err := ask(h, func(lib *netlink.Handle) (netlink.Link, error) { return lib.LinkByIndex(index) })
	if err != nil {
		return fmt.Errorf("find bridge number %d: %w", index, classify(err))
	}
	if br, ok := l.(*netlink.Bridge); ok && br.VlanDefaultPVID == nil {
		return ErrNoVLANs
	}
	return nil
}

// VLAN is one VLAN of a bridge port. Native: what comes in without a tag is of it, and it leaves without.
type VLAN struct {
	ID     int
	Native bool
}

// AddVLANs makes a bridge port a member of VLANs. Being one is success.
func (h *Handle) AddVLANs(index int, vlans ...VLAN) error {
	for _, v := range vlans {
		err := tell(h, func(lib *netlink.Handle) error {
			return lib.BridgeVlanAdd(byIndex(index), uint16(v.ID), v.Native, v.Native, false, true)
		})
		if err != nil {
			return fmt.Errorf("add VLAN %d to link number %d: %w", v.ID, index, noVLANs(classify(err)))
		}
	}
	return nil
}

// DeleteVLAN ends a bridge port's membership; gone is success.
func (h *Handle) DeleteVLAN(index, id int) error {
	err := absentOK(classify(tell(h, func(lib *netlink.Handle) error {
		return lib.BridgeVlanDel(byIndex(index), uint16(id), false, false, false, true)
	})))
	if err != nil {
		return fmt.Errorf("delete VLAN %d from link number %d: %w", id, index, noVLANs(err))
	}
	return nil
}

// VLANs lists those of a bridge port.
func (h *Handle) VLANs(index int) ([]VLAN, error) {
	list, err := ask(h, (*netlink.Handle).BridgeVlanList)
	if err != nil {
		return nil, fmt.Errorf("list VLANs: %w", classify(err))
	}
	var out []VLAN
	for _, v := range list[int32(index)] {
		out = append(out, VLAN{ID: int(v.Vid), Native: v.PortVID()})
	}
	return out, nil
}
