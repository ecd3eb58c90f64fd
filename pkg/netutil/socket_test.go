package netutil

import (
	"encoding/binary"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestAnswersOfOthers: whoever may change a namespace may send to the sockets in it. A pod with CAP_NET_ADMIN must not
// answer for the kernel.
func TestAnswersOfOthers(t *testing.T) {
	nettest.RequireRoot(t)
	s, err := openSocket(unix.NETLINK_ROUTE)
	ok(t, err)
	defer s.close()
	ok(t, unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	own, err := unix.Getsockname(s.fd)
	ok(t, err)
	liar, err := openSocket(unix.NETLINK_ROUTE)
	ok(t, err)
	defer liar.close()

	lie := nl.NewNetlinkRequest(unix.NLMSG_ERROR, 0)
	lie.Seq = s.seq + 1
	lie.AddData(attrBytes(binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EPERM)+1)))
	ok(t, unix.Sendto(liar.fd, lie.Serialize(), 0, own))
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = 1
	answers, err := s.request(unix.RTM_GETLINK, 0, msg)
	if err != nil || len(answers) != 1 || binary.NativeEndian.Uint32(answers[0][4:]) != 1 {
		t.Errorf("%d answers, %v", len(answers), err)
	}
}
