package lease

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// HostPorts are the ports of the node that lead to an attachment.
type HostPorts struct {
	Link     string    `json:"link"`              // by which the node reaches the pod
	SNAT     bool      `json:"snat"`              // translate the source where answers would not come back
	MasqAll  bool      `json:"masqAll,omitempty"` // translate every source
	Loopback bool      `json:"loopback,omitempty"`
	Forwards []Forward `json:"forwards"`
}

// Forward leads from a port of the node to one of the pod, both of one family. An unspecified host
// address means all of the family.
type Forward struct {
	Protocol string         `json:"protocol"` // "tcp", "udp" or "sctp"
	Host     netip.AddrPort `json:"host"`
	Pod      netip.AddrPort `json:"pod"`
}

// Claim is what no two attachments may have at once.
func (f Forward) Claim() string { return f.Protocol + " " + f.Host.String() }

// claims lists what is claimed; of a lease without host ports nothing.
func (l Lease) claims() []string {
	if l.HostPorts == nil {
		return nil
	}
	var out []string
	for _, f := range l.HostPorts.Forwards {
		out = append(out, f.Claim())
	}
	return out
}

// PortOwner returns the lease that has claimed a host port; see Find.
func (s *Store) PortOwner(f Forward) (Lease, error) {
	name, ok := s.target("port", f.Claim())
	if !ok {
		return Lease{}, fmt.Errorf("lease of %s: %w", f.Claim(), errdefs.ErrNotFound)
	}
	l, err := s.read(name)
	if err == nil && l.BootID != s.boot {
		err = errdefs.ErrNotFound
	}
	return l, err
}

// HasPorts says whether any lease of the network may have host ports.
func (s *Store) HasPorts() bool {
	d, err := os.Open(s.path("port"))
	if err != nil {
		return false
	}
	defer func() { _ = d.Close() }()
	_, err = d.Readdirnames(1)
	return !errors.Is(err, io.EOF)
}

// Siblings are the stores of all networks that have their leases beside this one's, itself included.
func (s *Store) Siblings() ([]*Store, error) {
	names, err := readNames(filepath.Dir(s.dir))
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var out []*Store
	for _, name := range names {
		out = append(out, New(filepath.Dir(s.dir), name, s.boot))
	}
	return out, nil
}

// WithPorts lists the leases of this boot that have host ports. What cannot be read has none.
func (s *Store) WithPorts() ([]Lease, error) {
	if !s.HasPorts() {
		return nil, nil
	}
	entries, err := s.All()
	if err != nil {
		return nil, err
	}
	var out []Lease
	for _, e := range entries {
		if e.Damaged == nil && e.Lease.BootID == s.boot && e.Lease.HostPorts != nil {
			out = append(out, e.Lease)
		}
	}
	return out, nil
}
