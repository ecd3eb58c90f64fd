package lease

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/durable"
)

const (
	tempPrefix = ".tmp-"
	dirMode    = 0o755
	fileMode   = 0o644
)

// Locked is a store under its lock: the only way to change it.
type Locked struct {
	*Store
	lock  *durable.Lock
	other *durable.Lock // host-local's, where that is another file
}

// Lock makes the directory if needed, waits for the lock, and drops the leases of an older boot.
func (s *Store) Lock() (*Locked, error) {
	lock, err := durable.Acquire(s.path("lock"))
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeDirs(); err != nil {
			return nil, err
		}
		lock, err = durable.Acquire(s.path("lock"))
	}
	if err != nil {
		return nil, fmt.Errorf("lock leases: %w", err)
	}
	l := &Locked{Store: s, lock: lock}
	l.other, err = s.lockHostLocal()
	if err == nil {
		err = l.enterBoot()
	}
	if err != nil {
		return nil, errors.Join(err, l.Unlock())
	}
	return l, nil
}

func (s *Store) makeDirs() error {
	for _, sub := range []string{"ip", "port", "at", "rec"} {
		if err := os.MkdirAll(s.path(sub), dirMode); err != nil {
			return fmt.Errorf("make lease directory: %w", err)
		}
	}
	return nil
}

// inDirs runs f, and once more after making the directories if somebody removed them.
func (s *Store) inDirs(f func() error) error {
	err := f()
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.makeDirs(); err == nil {
			err = f()
		}
	}
	return err
}

// Unlock gives the lock up.
func (l *Locked) Unlock() error {
	if l.other == nil {
		return l.lock.Release()
	}
	return errors.Join(l.other.Release(), l.lock.Release())
}

// enterBoot drops the records of older boots, then says whose boot the directory is of. Where the boot
// is not known, an unreadable record stays: its owner may be alive.
func (l *Locked) enterBoot() error {
	was, err := os.ReadFile(l.path("boot"))
	if err == nil && string(was) == l.boot {
		return nil
	}
	if err := l.makeDirs(); err != nil {
		return err
	}
	entries, err := l.All()
	if err != nil {
		return err
	}
	for _, e := range entries {
		old := e.Lease.BootID != l.boot
		if e.Damaged != nil {
			old = len(was) > 0
		}
		if old {
			if err := durable.RemoveFile(l.path("rec", e.Record), durable.NoSync); err != nil {
				return fmt.Errorf("drop lease of an older boot: %w", err)
			}
		}
	}
	if err := l.Sweep(); err != nil {
		return err
	}
	return durable.WriteFile(l.path("boot"), []byte(l.boot), fileMode, durable.NoSync)
}

// Commit makes a lease hold, all its addresses and host ports at once. An attachment that has a lease, and
// an address or a port that is taken, are ErrAlreadyExists.
func (l *Locked) Commit(v Lease) (err error) {
	v.Format, v.BootID = format, l.boot
	if _, ok := l.target("at", v.Key()); ok {
		return fmt.Errorf("lease of %s %s: %w", v.ContainerID, v.IfName, errdefs.ErrAlreadyExists)
	}
	held := v.Addresses
	if v.Delegate != "" {
		held = nil
	}
	for _, a := range held {
		if l.Taken(a) {
			return fmt.Errorf("lease %s: %w", a, errdefs.ErrAlreadyExists)
		}
	}
	for _, claim := range v.claims() {
		if _, ok := l.target("port", claim); ok {
			return fmt.Errorf("lease host port %s: %w", claim, errdefs.ErrAlreadyExists)
		}
	}
	nonce := make([]byte, nonceLen/2)
	if _, err := unix.Getrandom(nonce, 0); err != nil { // crypto/rand starts a generator first
		return fmt.Errorf("write lease: %w", err)
	}
	record := v.Key() + "-" + hex.EncodeToString(nonce)
	temp := l.path("rec", tempPrefix+record)
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
			err = errors.Join(err, l.untellHostLocal(v.Attachment, held))
		}
	}()
	if err := l.inDirs(func() error { return os.WriteFile(temp, append(v.encode(), '\n'), fileMode) }); err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	if err := l.link("at", v.Key(), record); err != nil {
		return err
	}
	for _, a := range held {
		if err := l.link("ip", a.String(), record); err != nil {
			return err
		}
	}
	for _, claim := range v.claims() {
		if err := l.link("port", claim, record); err != nil {
			return err
		}
	}
	if err := l.tellHostLocal(v.Attachment, held); err != nil {
		return err
	}
	// Before this rename nothing holds, after it everything does.
	if err := os.Rename(temp, l.path("rec", record)); err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	return nil
}

func (l *Locked) link(kind, name, record string) error {
	path, to := l.path(kind, name), "../rec/"+record
	err := l.inDirs(func() error { return os.Symlink(to, path) })
	if errors.Is(err, fs.ErrExist) {
		if err = os.Remove(path); err == nil {
			err = os.Symlink(to, path)
		}
	}
	if err != nil {
		return fmt.Errorf("index lease: %w", err)
	}
	return nil
}

// Release ends the lease of an attachment, host-local's too; none is success.
func (l *Locked) Release(a Attachment) error {
	if record, ok := l.target("at", a.Key()); ok {
		if err := l.Drop(record); err != nil {
			return err
		}
	}
	adopted, err := l.AdoptedBy(a)
	for _, old := range adopted {
		err = errors.Join(err, l.DropAdopted(old))
	}
	return err
}

// Drop ends the lease that a record makes.
func (l *Locked) Drop(record string) error {
	v, damaged := l.read(record)
	if err := durable.RemoveFile(l.path("rec", record), durable.NoSync); err != nil {
		return fmt.Errorf("release lease: %w", err)
	}
	// From here on nothing holds. The links mean nothing; they go for tidiness.
	if damaged != nil {
		return l.Sweep()
	}
	l.unlink("at", v.Key(), record)
	for _, a := range v.Addresses {
		l.unlink("ip", a.String(), record)
	}
	for _, claim := range v.claims() {
		l.unlink("port", claim, record)
	}
	return l.untellHostLocal(v.Attachment, v.Addresses)
}

func (l *Locked) unlink(kind, name, record string) {
	path := l.path(kind, name)
	if to, err := os.Readlink(path); err == nil && to == "../rec/"+record {
		_ = os.Remove(path)
	}
}

// Sweep removes what crashes left: temporary files and links to nothing. Foreign files stay.
func (l *Locked) Sweep() error {
	var faults []error
	for _, kind := range []string{"at", "ip", "port", "rec"} {
		names, err := readNames(l.path(kind))
		faults = append(faults, err)
		for _, name := range names {
			if l.isLeftover(kind, name) {
				faults = append(faults, durable.RemoveFile(l.path(kind, name), durable.NoSync))
			}
		}
	}
	faults = append(faults, durable.RemoveLeftovers(l.dir))
	if l.isShared() {
		faults = append(faults, durable.RemoveLeftovers(l.hostLocal))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("sweep leases: %w", err)
	}
	return nil
}

func (l *Locked) isLeftover(kind, name string) bool {
	if kind == "rec" {
		return strings.HasPrefix(name, tempPrefix)
	}
	to, err := os.Readlink(l.path(kind, name))
	if err != nil || !strings.HasPrefix(to, "../rec/") {
		return false
	}
	_, ok := l.target(kind, name)
	return !ok
}

// Empty says whether the network has no lease.
func (l *Locked) Empty() (bool, error) {
	d, err := os.Open(l.path("rec"))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("list leases: %w", err)
	}
	defer func() { _ = d.Close() }()
	some := make([]byte, 512) // the first names nearly always tell; os.File reads a hundred
	for {
		n, err := unix.ReadDirent(int(d.Fd()), some)
		if err != nil {
			return false, fmt.Errorf("list leases: %w", err)
		}
		if n == 0 {
			return true, nil
		}
		_, _, names := unix.ParseDirent(some[:n], -1, nil)
		if slices.ContainsFunc(names, isRecord) {
			return false, nil
		}
	}
}

// Last is the address that was given last from a range set; invalid when not known.
func (s *Store) Last(set int) netip.Addr {
	last, _, _ := s.progress(set)
	return last
}

// progress reads last.N: the address that was given last and, in a second line, the highest one of its range that was
// ever given. What is not known is invalid. begun is false when no address was given yet.
func (s *Store) progress(set int) (last, highest netip.Addr, begun bool) {
	data, err := os.ReadFile(s.path("last." + strconv.Itoa(set)))
	first, second, _ := strings.Cut(string(data), "\n")
	last, _ = netip.ParseAddr(strings.TrimSpace(first))
	highest, _ = netip.ParseAddr(strings.TrimSpace(second))
	return last, highest, !errors.Is(err, fs.ErrNotExist)
}

// SetLast remembers an address that is about to be given, and says whether it is the first time: it is higher than all
// that were given of its range, to which sameRange leads, since the directory was made. Where host-local is, or was, at
// work that cannot be known.
func (l *Locked) SetLast(set int, addr netip.Addr, sameRange func(netip.Addr) bool) (first bool, err error) {
	_, highest, begun := l.progress(set)
	known := highest.IsValid() && sameRange(highest)
	content := addr.String() + "\n"
	switch {
	case !begun || known && highest.Less(addr):
		content += addr.String() + "\n"
		first = !l.isShared()
	case known:
		content += highest.String() + "\n"
	}
	return first, durable.WriteFile(l.path("last."+strconv.Itoa(set)), []byte(content), fileMode, durable.NoSync)
}

// Probe says whether a lease could be written now.
func (l *Locked) Probe() error {
	path := l.path("rec", tempPrefix+"probe")
	err := l.inDirs(func() error { return os.WriteFile(path, []byte(l.boot), fileMode) })
	if err != nil {
		return fmt.Errorf("probe lease directory: %w", err)
	}
	return durable.RemoveFile(path, durable.NoSync)
}
