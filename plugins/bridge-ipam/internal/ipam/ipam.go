// Package ipam chooses addresses: (ranges, what is taken, the last one given) → address. It is pure: it
// reads no file and asks no kernel, and what is taken comes from its caller. It has no crash story.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrExhausted says that every address of a set is taken.
var ErrExhausted = errors.New("no free address")

// ErrUnavailable says that an address that was asked for by name cannot be given.
var ErrUnavailable = errors.New("address is not available")

// Range is a validated part of a subnet. First and Last are both inside and may be handed out; the
// gateway never is.
type Range struct {
	Subnet      netip.Prefix // host bits are zero
	First, Last netip.Addr
	Gateway     netip.Addr
}

// Set is a list of ranges of one family that do not overlap; a set yields one address per attachment.
type Set []Range

// NewRange checks a range and fills in what is not given (an invalid Addr): First is the address after
// the subnet's, Last the highest one, but for IPv4 the one before the broadcast address; Gateway is the
// address after the subnet's.
func NewRange(subnet netip.Prefix, first, last, gateway netip.Addr) (Range, error) {
	r := Range{Subnet: subnet, First: first, Last: last, Gateway: gateway}
	if !subnet.IsValid() {
		return r, errors.New("subnet: missing, give one such as \"10.88.0.0/16\"")
	}
	if subnet.Masked() != subnet {
		return r, fmt.Errorf("subnet %s: host bits are set, the network is %s", subnet, subnet.Masked())
	}
	if subnet.Addr().BitLen()-subnet.Bits() < 2 {
		return r, fmt.Errorf("subnet %s: too small, no address is left for a pod", subnet)
	}
	lowest, highest := bounds(subnet)
	if !r.Gateway.IsValid() {
		r.Gateway = subnet.Addr().Next()
	} else if r.Gateway.BitLen() != subnet.Addr().BitLen() {
		return r, fmt.Errorf("gateway %s: not of the family of subnet %s", gateway, subnet)
	}
	for _, end := range []struct {
		key  string
		addr *netip.Addr
		def  netip.Addr
	}{{"rangeStart", &r.First, lowest}, {"rangeEnd", &r.Last, highest}} {
		if !end.addr.IsValid() {
			*end.addr = end.def
		} else if !subnet.Contains(*end.addr) {
			return r, fmt.Errorf("%s %s: not in subnet %s", end.key, end.addr, subnet)
		}
	}
	// The subnet's own address and the broadcast address are never given, even when a range names them.
	r.First, r.Last = later(r.First, lowest), earlier(r.Last, highest)
	if r.Last.Less(r.First) {
		return r, fmt.Errorf("rangeStart %s: after rangeEnd %s", r.First, r.Last)
	}
	return r, nil
}

func bounds(subnet netip.Prefix) (lowest, highest netip.Addr) {
	b := subnet.Addr().AsSlice()
	for i := subnet.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	highest, _ = netip.AddrFromSlice(b)
	if highest.Is4() {
		highest = highest.Prev()
	}
	return subnet.Addr().Next(), highest
}

func later(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

func earlier(a, b netip.Addr) netip.Addr {
	if b.Less(a) {
		return b
	}
	return a
}

// Contains says whether an address lies between the ends of the range.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && !a.Less(r.First) && !r.Last.Less(a)
}

func (r Range) overlaps(o Range) bool {
	return r.Contains(o.First) || r.Contains(o.Last) || o.Contains(r.First)
}

// Find returns the range of the set that contains an address.
func (s Set) Find(a netip.Addr) (Range, bool) {
	for _, r := range s {
		if r.Contains(a) {
			return r, true
		}
	}
	return Range{}, false
}

// CheckSets says what keeps sets from being used together: an empty set, two families in one set,
// overlapping ranges.
func CheckSets(sets []Set) error {
	var faults []error
	for i, s := range sets {
		if len(s) == 0 {
			faults = append(faults, fmt.Errorf("range set %d: empty", i))
		}
		for j, r := range s {
			if r.Subnet.Addr().BitLen() != s[0].Subnet.Addr().BitLen() {
				faults = append(faults, fmt.Errorf("range set %d: IPv4 and IPv6 in one set (%s, %s)", i, s[0].Subnet, r.Subnet))
			}
			faults = append(faults, overlapWith(r, s[:j], sets[:i]))
		}
	}
	return errors.Join(faults...)
}

// overlapWith names the first range that r overlaps with.
func overlapWith(r Range, same Set, others []Set) error {
	for _, s := range append([]Set{same}, others...) {
		for _, o := range s {
			if r.overlaps(o) {
				return fmt.Errorf("ranges %s-%s and %s-%s overlap", o.First, o.Last, r.First, r.Last)
			}
		}
	}
	return nil
}

// Next chooses the first free address after last, round the whole set, so that an address rests as long
// as possible before it is given again. An invalid last, or one from outside, starts at the beginning.
func Next(s Set, taken func(netip.Addr) bool, last netip.Addr) (netip.Addr, Range, error) {
	start := 0
	for i, r := range s {
		if last.IsValid() && r.Contains(last) {
			for a := last.Next(); a.IsValid() && r.Contains(a); a = a.Next() {
				if r.free(a, taken) {
					return a, r, nil
				}
			}
			start = i + 1
			break
		}
	}
	// The range of last comes once more at the end, from its beginning.
	for i := range len(s) {
		r := s[(start+i)%len(s)]
		for a := r.First; a.IsValid() && r.Contains(a); a = a.Next() {
			if r.free(a, taken) {
				return a, r, nil
			}
		}
	}
	return netip.Addr{}, Range{}, ErrExhausted
}

// Take chooses one address that was asked for.
func Take(s Set, want netip.Addr, taken func(netip.Addr) bool) (Range, error) {
	r, ok := s.Find(want)
	switch {
	case !ok:
		return r, fmt.Errorf("%s: %w: not in the ranges", want, ErrUnavailable)
	case want == r.Gateway:
		return r, fmt.Errorf("%s: %w: it is the gateway", want, ErrUnavailable)
	case taken(want):
		return r, fmt.Errorf("%s: %w: it is in use", want, ErrUnavailable)
	}
	return r, nil
}

func (r Range) free(a netip.Addr, taken func(netip.Addr) bool) bool {
	return a != r.Gateway && !taken(a)
}
