package netutil

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddrAfterDAD gives a link an address that the kernel puts to use once it has found nobody else with it
// (RFC 4862, 5.4). AwaitAddrs waits for that. IPv4 has no such detection.
func (h *Handle) AddAddrAfterDAD(index int, p netip.Prefix) error {
	return h.addAddr(index, p, 0)
}

// AwaitAddrs waits until no address of a link is tentative any more. One that somebody else has is an error.
func (h *Handle) AwaitAddrs(index int, patience time.Duration) error {
	tick := time.NewTicker(20 * time.Millisecond) // detection itself takes at least a second
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		waiting, err := h.tentative(index)
		if err != nil || waiting == "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("address %s: still looking for duplicates after %s", waiting, patience)
		}
	}
}

// tentative is one of a link's tentative addresses.
func (h *Handle) tentative(index int) (waiting string, err error) {
	list, err := ask(h, func(lib *netlink.Handle) ([]netlink.Addr, error) {
		return lib.AddrList(byIndex(index), netlink.FAMILY_V6)
	})
	if err != nil {
		return "", fmt.Errorf("list addresses of link number %d: %w", index, classify(err))
	}
	for _, a := range list {
		if a.Flags&unix.IFA_F_DADFAILED != 0 {
			return "", fmt.Errorf("address %s: somebody else on the network has it", a.IPNet)
		}
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			waiting = a.IPNet.String()
		}
	}
	return waiting, nil
}
