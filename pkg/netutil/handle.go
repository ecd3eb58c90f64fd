package netutil

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Handle speaks to one network namespace. It is for one goroutine at a time.
type Handle struct {
	ns   *NS // nil: the namespace of the caller
	sock *socket
	lib  *netlink.Handle // nil until it is needed, see ask
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

// open makes the socket on the calling thread, in whose namespace it stays.
func open(ns *NS) (*Handle, error) {
	sock, err := openSocket(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	// With strict checks a dump of addresses is of one link, and not of all of them (since Linux 4.20).
	_ = unix.SetsockoptInt(sock.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return &Handle{ns: ns, sock: sock}, nil
}

// Close closes the sockets.
func (h *Handle) Close() {
	h.sock.close()
	if h.lib != nil {
		h.lib.Close()
	}
}

// request sends one rtnetlink message and returns the answers.
func (h *Handle) request(kind, flags int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	answers, err := h.sock.request(kind, flags, data...)
	return answers, classify(err)
}

// ask has the library ask the kernel, for what few need: it has sockets of its own.
func ask[T any](h *Handle, f func(*netlink.Handle) (T, error)) (out T, err error) {
	if h.lib == nil {
		err = h.do(func() (err error) {
			h.lib, err = netlink.NewHandle(unix.NETLINK_ROUTE)
			return err
		})
	}
	if err != nil {
		return out, err
	}
	return whole(func() (T, error) { return f(h.lib) })
}

// tell is ask for what has no answer.
func tell(h *Handle, f func(*netlink.Handle) error) error {
	_, err := ask(h, func(lib *netlink.Handle) (struct{}, error) { return struct{}{}, f(lib) })
	return err
}

// do runs f on a thread in the handle's namespace.
func (h *Handle) do(f func() error) error {
	if h.ns == nil {
		return f()
	}
	return h.ns.Do(f)
}
