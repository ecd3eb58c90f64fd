package lease

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/durable"
)

// maxHostLocal is the most that is read of a file of host-local, in bytes.
const maxHostLocal = 4096

// Adopted is a lease of the reference plugin host-local: the file <dataDir>/<network>/<address> with the
// content "<container id>\r\n<interface>". Its old versions wrote no interface.
type Adopted struct {
	Addr netip.Addr
	Attachment
	Since time.Time // when the file was written
	path  string
}

// Beside makes a store that counts the leases of host-local below its dataDir as taken, and releases them
// like its own: what takes host-local's place never gives out what that one gave. Where host-local has
// given addresses of this network, it is told of ours in its own form, and its lock is taken too, so that
// it may come back, or run at the same time. Empty is no such directory.
func (s *Store) Beside(dataDir string) *Store {
	out := *s
	if dataDir != "" {
		out.hostLocal = filepath.Join(dataDir, filepath.Base(s.dir))
	}
	return &out
}

func (s *Store) takenByHostLocal(addr netip.Addr) bool {
	if s.hostLocal == "" {
		return false
	}
	_, err := os.Lstat(filepath.Join(s.hostLocal, addr.String()))
	return err == nil
}

// marker is a file that host-local has in the directory of each network that it gave an address of.
const marker = "last_reserved_ip.0"

// isShared says whether host-local is, or was, at work on the network.
func (s *Store) isShared() bool {
	if s.hostLocal == "" {
		return false
	}
	_, err := os.Lstat(filepath.Join(s.hostLocal, marker))
	return err == nil
}

func (s *Store) lockHostLocal() (*durable.Lock, error) {
	if s.hostLocal == s.dir || !s.isShared() {
		return nil, nil
	}
	lock, err := durable.Acquire(filepath.Join(s.hostLocal, "lock"))
	if err != nil {
		return nil, fmt.Errorf("lock leases of host-local: %w", err)
	}
	return lock, nil
}

// tellHostLocal writes leases in host-local's form. Crash after it: they are host-local's, and the
// attachment's DEL or GC ends them.
func (l *Locked) tellHostLocal(at Attachment, addrs []netip.Addr) error {
	if !l.isShared() {
		return nil
	}
	for _, addr := range addrs {
		path := filepath.Join(l.hostLocal, addr.String())
		if err := durable.WriteFile(path, []byte(at.ContainerID+"\r\n"+at.IfName), fileMode, durable.NoSync); err != nil {
			return fmt.Errorf("write lease for host-local: %w", err)
		}
	}
	return nil
}

// untellHostLocal removes them.
func (l *Locked) untellHostLocal(at Attachment, addrs []netip.Addr) error {
	if l.hostLocal == "" {
		return nil
	}
	for _, addr := range addrs {
		a := Adopted{Addr: addr, path: filepath.Join(l.hostLocal, addr.String())}
		ok, err := a.read()
		if err == nil && ok && a.Attachment == at {
			err = l.DropAdopted(a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Adopted lists the leases of host-local. Files that are none are left out, but a file of an address
// whose content makes no sense is listed with an empty attachment: host-local may have been killed before
// it wrote one.
func (s *Store) Adopted() ([]Adopted, error) {
	if s.hostLocal == "" {
		return nil, nil
	}
	names, err := readNames(s.hostLocal)
	if err != nil {
		return nil, fmt.Errorf("list leases of host-local: %w", err)
	}
	var out []Adopted
	for _, name := range names {
		addr, err := netip.ParseAddr(name)
		if err != nil || addr.Zone() != "" {
			continue
		}
		a := Adopted{Addr: addr.Unmap(), path: filepath.Join(s.hostLocal, name)}
		if ok, err := a.read(); err != nil {
			return nil, fmt.Errorf("read lease of host-local: %w", err)
		} else if ok {
			out = append(out, a)
		}
	}
	return out, nil
}

func (a *Adopted) read() (ok bool, err error) {
	f, err := os.OpenFile(a.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return false, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxHostLocal))
	if err != nil {
		return false, err
	}
	a.Since = fi.ModTime()
	id, ifName, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
	a.ContainerID, a.IfName = strings.TrimSpace(id), strings.TrimSpace(ifName)
	return true, nil
}

// AdoptedBy lists the leases of host-local that an attachment has: those of container and interface or, when
// there are none, those that name the container only.
func (s *Store) AdoptedBy(at Attachment) ([]Adopted, error) {
	all, err := s.Adopted()
	if err != nil {
		return nil, err
	}
	var exact, old []Adopted
	for _, a := range all {
		switch {
		case a.ContainerID != at.ContainerID:
		case a.IfName == at.IfName:
			exact = append(exact, a)
		case a.IfName == "":
			old = append(old, a)
		}
	}
	if len(exact) > 0 {
		return exact, nil
	}
	return old, nil
}

// DropAdopted ends a lease of host-local by removing its file, which frees the address for that plugin too.
func (l *Locked) DropAdopted(a Adopted) error {
	if err := durable.RemoveFile(a.path, durable.NoSync); err != nil {
		return fmt.Errorf("release lease of host-local: %w", err)
	}
	return nil
}
