package lease

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// format is the version of the record; a reader keeps what it does not know.
const format = 1

// Attachment names one interface of one container.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Key is a name of fixed length for the attachment, fit for files and links.
func (a Attachment) Key() string {
	sum := sha256.Sum256([]byte(a.ContainerID + "\x00" + a.IfName))
	return hex.EncodeToString(sum[:16])
}

// Lease is what one attachment holds.
type Lease struct {
	Format int `json:"format"`
	Attachment
	Network    string       `json:"network"`
	Addresses  []netip.Addr `json:"addresses"`
	NetNS      string       `json:"netns"` // path
	NetNSInode uint64       `json:"netnsInode"`
	HostLink   string       `json:"hostLink"`
	MTU        int          `json:"mtu,omitempty"`        // of both ends; 0: the kernel's default
	Delegate   string       `json:"delegate,omitempty"`   // the plugin whose addresses these are: they are noted, not held
	Masquerade string       `json:"masquerade,omitempty"` // chain that the addresses were put into
	Ingress    Limit        `json:"ingress,omitzero"`
	Egress     Limit        `json:"egress,omitzero"`
	HostPorts  *HostPorts   `json:"hostPorts,omitempty"`
	Guard      *Guard       `json:"guard,omitempty"`
	BootID     string       `json:"bootID"`
	Time       time.Time    `json:"time"`
}

// Limit is the bandwidth of one direction, in bits per second and bits. A Rate of 0 is no limit.
type Limit struct {
	Rate  uint64 `json:"rate"`
	Burst uint64 `json:"burst"`
}

// Guard is what an attachment's frames are checked for.
type Guard struct {
	MAC        string `json:"mac"`
	CheckMAC   bool   `json:"checkMAC"`
	CheckAddrs bool   `json:"checkAddresses"`
}

// Store is the lease directory of one network.
type Store struct {
	dir       string
	boot      string
	hostLocal string // see Beside
}

// New names the store of a network below dataDir. It reads nothing.
func New(dataDir, network, bootID string) *Store {
	return &Store{dir: filepath.Join(dataDir, network), boot: bootID}
}

// Dir is the directory of the network.
func (s *Store) Dir() string { return s.dir }

// Exists says whether the network ever had a lease here, or has one of host-local.
func (s *Store) Exists() bool {
	if _, err := os.Stat(s.path("rec")); err == nil {
		return true
	}
	adopted, _ := s.Adopted() // an error comes again when the store is used
	return len(adopted) > 0
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// Find returns the lease of an attachment, ErrNotFound when it has none in this boot. It needs no lock. A
// record that cannot be read is ErrDataLoss.
func (s *Store) Find(a Attachment) (Lease, error) {
	name, ok := s.target("at", a.Key())
	if !ok {
		return Lease{}, fmt.Errorf("lease of %s %s: %w", a.ContainerID, a.IfName, errdefs.ErrNotFound)
	}
	l, err := s.read(name)
	if err == nil && l.BootID != s.boot {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return Lease{}, fmt.Errorf("lease of %s %s: %w", a.ContainerID, a.IfName, err)
	}
	return l, nil
}

// Taken says whether an address is held. What lies in the way and is no link of ours holds nothing, but
// for a directory, which could not be replaced.
func (s *Store) Taken(addr netip.Addr) bool {
	if _, ok := s.target("ip", addr.String()); ok {
		return true
	}
	fi, err := os.Lstat(s.path("ip", addr.String()))
	return err == nil && fi.IsDir() || s.takenByHostLocal(addr)
}

// target follows a link and returns the name of the record, if there is one.
func (s *Store) target(kind, name string) (record string, ok bool) {
	to, err := os.Readlink(s.path(kind, name))
	if err != nil {
		return "", false
	}
	record, ok = strings.CutPrefix(to, "../rec/")
	if !ok || strings.Contains(record, "/") {
		return "", false
	}
	fi, err := os.Lstat(s.path("rec", record))
	return record, err == nil && fi.Mode().IsRegular()
}

func (s *Store) read(record string) (Lease, error) {
	var l Lease
	data, err := os.ReadFile(s.path("rec", record))
	if errors.Is(err, fs.ErrNotExist) {
		return l, errdefs.ErrNotFound
	}
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return Lease{}, fmt.Errorf("read %s: %v: %w", s.path("rec", record), err, errdefs.ErrDataLoss) //nolint:errorlint // one class
	}
	if l.Format < 1 || !strings.HasPrefix(record, l.Key()+"-") {
		return Lease{}, fmt.Errorf("read %s: not a lease of its name: %w", s.path("rec", record), errdefs.ErrDataLoss)
	}
	return l, nil
}

// Entry is one record as found.
type Entry struct {
	Record string // name below rec/
	Key    string // of the attachment
	Lease  Lease
	// Damaged is set when the record cannot be read: only Record and Key are known then.
	Damaged error
}

// All lists every record. Files that are no records are left out.
func (s *Store) All() ([]Entry, error) {
	names, err := readNames(s.path("rec"))
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var entries []Entry
	for _, name := range names {
		if !isRecord(name) {
			continue
		}
		e := Entry{Record: name, Key: name[:keyLen]}
		e.Lease, e.Damaged = s.read(name)
		if errors.Is(e.Damaged, errdefs.ErrNotFound) {
			continue
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Lengths of the two parts of a record's name, in hexadecimal digits.
const (
	keyLen   = 32
	nonceLen = 16
)

func isRecord(name string) bool {
	key, nonce, ok := strings.Cut(name, "-")
	return ok && isHex(key, keyLen) && isHex(nonce, nonceLen)
}

func isHex(s string, length int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == length
}

// readNames lists a directory; a missing one is empty.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	return names, errors.Join(err, d.Close())
}
