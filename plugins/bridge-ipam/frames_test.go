package bridgeipam_test

import (
	"bytes"
	be "encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// wire is a packet socket on one interface.
type wire struct {
	t  testing.TB
	fd int
}

// tap opens an interface of a namespace for frames.
func tap(t testing.TB, ns, ifName string) wire {
	t.Helper()
	w := wire{t: t}
	nettest.In(t, ns, func() (err error) {
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		i, err := net.InterfaceByName(ifName)
		if err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: i.Index})
	})
	t.Cleanup(func() { _ = unix.Close(w.fd) })
	wait := unix.NsecToTimeval(int64(10 * time.Second))
	ok(t, unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
	return w
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w wire) send(frame []byte) {
	w.t.Helper()
	_, err := unix.Write(w.fd, frame)
	ok(w.t, err)
}

// sees reads until a frame ends with the last mark, and says whether one ended with the first before it.
func (w wire) sees(mark, last []byte) bool {
	w.t.Helper()
	seen := false
	buf := make([]byte, 65536)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			w.t.Fatalf("the last frame never came: %v", err)
		}
		seen = seen || bytes.HasSuffix(buf[:n], mark)
		if bytes.HasSuffix(buf[:n], last) {
			return seen
		}
	}
}

// ether is a frame.
func ether(to, from net.HardwareAddr, kind uint16, parts ...[]byte) []byte {
	f := append(append([]byte{}, to...), from...)
	f = be.BigEndian.AppendUint16(f, kind)
	return append(f, bytes.Join(parts, nil)...)
}

// arp is a message about an address; operation 1 asks, 2 answers.
func arp(operation byte, fromMAC net.HardwareAddr, from, about netip.Addr) []byte {
	m := append([]byte{0, 1, 8, 0, 6, 4, 0, operation}, fromMAC...)
	m = append(append(m, from.AsSlice()...), make([]byte, 6)...)
	return append(m, about.AsSlice()...)
}

// ip4 is a packet with a protocol's payload.
func ip4(from, to netip.Addr, protocol byte, payload []byte) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0}
	h = append(append(h, from.AsSlice()...), to.AsSlice()...)
	be.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(be.BigEndian.Uint16(h[i:]))
	}
	be.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	return append(h, payload...)
}

func ip6(from, to netip.Addr, next byte, payload []byte) []byte {
	h := []byte{0x60, 0, 0, 0, 0, 0, next, 255}
	be.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	h = append(append(h, from.AsSlice()...), to.AsSlice()...)
	return append(h, payload...)
}

func udp(from, to uint16, payload []byte) []byte {
	h := be.BigEndian.AppendUint16(nil, from)
	h = be.BigEndian.AppendUint16(h, to)
	h = be.BigEndian.AppendUint16(h, uint16(8+len(payload)))
	return append(append(h, 0, 0), payload...) // a checksum of 0 is none
}

// icmp6 is a message; of neighbour discovery when it has a target.
func icmp6(kind byte, target netip.Addr, payload []byte) []byte {
	m := []byte{kind, 0, 0, 0, 0, 0, 0, 0}
	return append(append(m, target.AsSlice()...), payload...)
}
