package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// The network around a node. The documentation prefixes stand for the public ones (RFC 5737, RFC 3849).
const (
	NodeAddr4, NodeAddr6       = "198.51.100.2", "2001:db8:100::2"
	LANAddr4, LANAddr6         = "198.51.100.1", "2001:db8:100::1"
	OutsideAddr4, OutsideAddr6 = "203.0.113.10", "2001:db8:200::10" // behind the node's default route
)

// Uplink is the node's link to the LAN.
const Uplink = "up0"

// Node is a host of its own, with a LAN.
type Node struct {
	*NS
	LAN *NS
	Dir string // for the plugins' data

	start chan func()
	done  chan struct{}
}

// NewNode makes a node in which no plugin ever ran.
func NewNode() (*Node, error) {
	n := &Node{start: make(chan func()), done: make(chan struct{})}
	var err error
	if n.Dir, err = os.MkdirTemp("", "podwright-cni-"); err != nil {
		return nil, err
	}
	if n.NS, err = NewNS(); err == nil {
		n.LAN, err = NewNS()
	}
	if err == nil {
		err = n.connect()
	}
	if err == nil {
		entered := make(chan error)
		go n.starter(entered)
		err = <-entered
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("new node: %w", err)
	}
	return n, nil
}

// Close removes the node. Its pods are the caller's.
func (n *Node) Close() {
	select {
	case <-n.done:
	default:
		close(n.done)
	}
	for _, ns := range []*NS{n.NS, n.LAN} {
		if ns != nil {
			ns.Close()
		}
	}
	_ = os.RemoveAll(n.Dir)
}

// connect joins node and LAN. The LAN knows the way back to pods: whether a packet was masqueraded shows in its source
// and not in its loss.
func (n *Node) connect() error {
	// Without duplicate address detection: the network around has been there long before the node.
	err := errors.Join(n.SetSysctl("ipv6/conf/default/accept_dad", "0"), n.LAN.SetSysctl("ipv6/conf/default/accept_dad", "0"))
	if err != nil {
		return err
	}
	err = n.Batch(
		fmt.Sprintf("link add %s type veth peer name lan0 netns %s", Uplink, n.LAN.Path()),
		"link set "+Uplink+" up",
		"addr add "+NodeAddr4+"/24 dev "+Uplink,
		"addr add "+NodeAddr6+"/64 dev "+Uplink+" nodad",
	)
	if err != nil {
		return err
	}
	err = n.LAN.Batch(
		"link set lan0 up",
		"addr add "+LANAddr4+"/24 dev lan0",
		"addr add "+LANAddr6+"/64 dev lan0 nodad",
		"addr add "+OutsideAddr4+"/32 dev lo",
		"addr add "+OutsideAddr6+"/128 dev lo",
		"route add 10.0.0.0/8 via "+NodeAddr4,
		"route add fd00::/8 via "+NodeAddr6,
	)
	if err != nil {
		return err
	}
	return errors.Join(
		n.Batch("route add default via "+LANAddr4, "route add default via "+LANAddr6),
		// A new namespace has some settings of the real host.
		n.SetSysctl("ipv6/conf/default/accept_dad", "1"), n.SetSysctl("ipv4/ip_forward", "0"),
		n.SetSysctl("ipv6/conf/all/forwarding", "0"),
	)
}

// starter is a thread inside the node's namespace that starts the node's processes: entering a namespace for each
// would be part of what benchmarks measure.
func (n *Node) starter(entered chan<- error) {
	runtime.LockOSThread() // for good: the thread ends with this goroutine
	err := unix.Setns(n.fd, unix.CLONE_NEWNET)
	entered <- err
	if err != nil {
		return
	}
	for {
		select {
		case f := <-n.start:
			f()
		case <-n.done:
			return
		}
	}
}

// Start starts a process on the node. The caller waits for it.
func (n *Node) Start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	n.start <- func() { result <- cmd.Start() }
	return <-result
}
