package netutil

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Index is the index of a link, ErrNotFound when there is none of that name. Unlike Link it takes no lock of the
// kernel's (netdevice(7)), so that it waits for nobody who adds or deletes links.
func (h *Handle) Index(name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = h.ioctl(unix.SIOCGIFINDEX, req)
	}
	if err != nil {
		return 0, fmt.Errorf("find link %s: %w", name, classify(err))
	}
	return int(req.Uint32()), nil
}

// nameAndMTU of a link take no lock either; see Index.
func (h *Handle) nameAndMTU(index int) (string, int, error) {
	req, err := unix.NewIfreq("x") // some name; the kernel fills it in
	if err == nil {
		req.SetUint32(uint32(index))
		err = h.ioctl(unix.SIOCGIFNAME, req)
	}
	if err == nil {
		err = h.ioctl(unix.SIOCGIFMTU, req)
	}
	if err != nil {
		return "", 0, fmt.Errorf("find link number %d: %w", index, classify(err))
	}
	return req.Name(), int(req.Uint32()), nil
}

// ioctl asks the namespace of the handle's socket, whichever thread asks.
func (h *Handle) ioctl(request uint, req *unix.Ifreq) error {
	return unix.IoctlIfreq(h.sock.fd, request, req)
}
