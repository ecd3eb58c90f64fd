// Package shaper limits the bandwidth of one host link, as the reference plugin bandwidth does: a token
// bucket on the link for what the pod receives (ingress), and a redirect of what the pod sends (egress)
// to the token bucket of an ifb, because queues limit only what leaves a link.
//
// It owns no state and no names. Crash: the queues of a link end with the link; the ifb that the caller
// named stays and is found by that name.
package shaper

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
)

// Limit is one direction's. A Rate of 0 is no limit.
type Limit struct {
	Rate  uint64 // bits per second
	Burst uint64 // bits
}

// unlimited are the bursts that runtimes send when nobody asked for one: a pod annotation has a rate only,
// but the reference wants both. 2³¹-1 is the kubelet's and cri-shim's, 2³²-1 containerd's, the others CRI-O's.
var unlimited = []uint64{math.MaxInt32, math.MaxUint32, 8*math.MaxUint32 - 1, 8 * math.MaxUint32}

const (
	// usual is the burst where none was asked for, in milliseconds at the rate: long enough for a
	// processor to be late, too short to show in the first second.
	usual = 10
	// latency is how long a byte may wait, in milliseconds at the rate; the reference's figure.
	latency = 25
	// header is the part of a frame that the MTU does not count: Ethernet with a VLAN tag, in bytes.
	header = 18
	// minBurst and minQueue are in whole frames. A bucket that cannot hold a frame passes none, and a queue
	// of less than a few frames starves TCP at low rates. Larger (GSO) packets are cut up by the bucket.
	minBurst, minQueue = 2, 10
	// defaultMTU is the kernel's.
	defaultMTU = 1500
)

// Bucket is what a limit means on links with an MTU (0: the kernel's default). A burst that was asked for is
// kept, unless no frame would fit.
func (l Limit) Bucket(mtu int) netutil.Bucket {
	if mtu == 0 {
		mtu = defaultMTU
	}
	frame := uint64(mtu + header)
	rate := max(l.Rate/8, 1)
	burst := max(l.Burst/8, frame)
	if slices.Contains(unlimited, l.Burst) {
		burst = max(share(rate, usual), minBurst*frame)
	}
	queue := burst + max(share(rate, latency), minQueue*frame)
	return netutil.Bucket{Rate: rate, Burst: clamp(burst), Queue: clamp(queue)}
}

// share is what goes at a rate in some milliseconds, however large the rate.
func share(rate, ms uint64) uint64 {
	if rate > math.MaxUint32*1000/ms {
		return math.MaxUint32
	}
	return rate * ms / 1000
}

func clamp(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }

// Ingress limits what leaves a link towards the pod.
func Ingress(h *netutil.Handle, link netutil.Link, l Limit) error {
	return h.SetBucket(link.Index, l.Bucket(link.MTU))
}

// Ifb names the link that egress goes through.
type Ifb struct {
	Name, Alias string
}

// Egress limits what a link receives from the pod. The ifb is made, in the place of one that is there.
func Egress(h *netutil.Handle, link netutil.Link, ifb Ifb, l Limit) error {
	err := h.AddIfb(ifb.Name, link.MTU)
	if errdefs.IsAlreadyExists(err) { // debris of an ADD that was killed
		if err := h.DeleteLink(ifb.Name); err != nil {
			return err
		}
		err = h.AddIfb(ifb.Name, link.MTU)
	}
	if err != nil {
		return err
	}
	made, err := h.Link(ifb.Name)
	if err != nil {
		return err
	}
	if err := h.SetLink(made.Index, netutil.Change{AddrGen: netutil.AddrGenNone}); err != nil {
		return err
	}
	if err := h.SetBucket(made.Index, l.Bucket(link.MTU)); err != nil {
		return err
	}
	if err := h.SetLink(made.Index, netutil.Change{Alias: ifb.Alias, Up: true}); err != nil {
		return err
	}
	return h.RedirectIngress(link.Index, made.Index)
}

// CheckIngress says what is not as Ingress made it; nil when nothing is.
func CheckIngress(h *netutil.Handle, link netutil.Link, l Limit) error {
	return checkBucket(h, link, l.Bucket(link.MTU))
}

// CheckEgress says what is not as Egress made it; nil when nothing is.
func CheckEgress(h *netutil.Handle, link netutil.Link, name string, l Limit) error {
	ifb, err := h.Link(name)
	if err != nil {
		return err
	}
	if ifb.Kind != "ifb" || !ifb.Up {
		return fmt.Errorf("link %s: is a %s, up: %t", name, ifb.Kind, ifb.Up)
	}
	to, err := h.IngressRedirect(link.Index)
	if err == nil && to != ifb.Index {
		err = fmt.Errorf("link %s: redirected to link number %d, not to %s", link.Name, to, name)
	}
	return errors.Join(err, checkBucket(h, ifb, l.Bucket(link.MTU)))
}

func checkBucket(h *netutil.Handle, link netutil.Link, want netutil.Bucket) error {
	have, err := h.Bucket(link.Index)
	if err != nil {
		return err
	}
	if !want.Alike(have) {
		return fmt.Errorf("link %s: limited to %+v, was %+v", link.Name, have, want)
	}
	return nil
}
