package netutil

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// attributes are those of a netlink message or of an attribute that holds others, the last of each type.
func attributes(data []byte) (map[uint16][]byte, error) {
	out := map[uint16][]byte{}
	err := eachAttribute(data, func(kind uint16, value []byte) { out[kind] = value })
	return out, err
}

// eachAttribute calls f with each attribute, in their order, until one is damaged. Their types come without the flags
// of the uppermost bits (struct nlattr of linux/netlink.h).
func eachAttribute(data []byte, f func(kind uint16, value []byte)) error {
	for len(data) > 0 {
		if len(data) < unix.SizeofNlAttr {
			return fmt.Errorf("netlink attribute cut off after %d bytes: %w", len(data), errdefs.ErrDataLoss)
		}
		size, kind := int(binary.NativeEndian.Uint16(data)), binary.NativeEndian.Uint16(data[2:])
		if size < unix.SizeofNlAttr || size > len(data) {
			return fmt.Errorf("netlink attribute %d of %d bytes, where %d are left: %w", kind, size, len(data), errdefs.ErrDataLoss)
		}
		f(kind&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), data[unix.SizeofNlAttr:size])
		data = data[min((size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(data)):]
	}
	return nil
}

// number is the value of an attribute of 32 bits in the machine's order; 0 when it has another size.
func number(value []byte) int {
	if len(value) != 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(value))
}
