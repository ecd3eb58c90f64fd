package netutil

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Handle speaks to one network namespace. It is for one goroutine at a time.
type Handle struct {
	ns  *NS // nil: the namespace of the caller
	lib *netlink.Handle
	raw map[int]*nl.SocketHandle
}

// Host opens a handle on the caller's own namespace.
func Host() (*Handle, error) { return open(nil) }

// Handle opens a handle on the namespace. The namespace must stay open as long as the handle.
func (n *NS) Handle() (*Handle, error) {
	var h *Handle
	err := n.Do(func() (err error) {
		h, err = open(n)
		return err
	})
	return h, err
}

// open makes the sockets on the calling thread, in whose namespace they stay.
func open(ns *NS) (*Handle, error) {
	lib, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	sock, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		lib.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	// With strict checks a dump of addresses is of one link, and not of all of them (since Linux 4.20).
	_ = unix.SetsockoptInt(sock.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	raw := map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: sock}}
	return &Handle{ns: ns, lib: lib, raw: raw}, nil
}

// Close closes the sockets.
func (h *Handle) Close() {
	h.lib.Close()
	for _, s := range h.raw {
		s.Close()
	}
}

// request sends one rtnetlink message and returns the answers.
func (h *Handle) request(kind, flags int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = h.raw
	for _, d := range data {
		req.AddData(d)
	}
	answers, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return answers, classify(err)
}

// do runs f on a thread in the handle's namespace.
func (h *Handle) do(f func() error) error {
	if h.ns == nil {
		return f()
	}
	return h.ns.Do(f)
}
