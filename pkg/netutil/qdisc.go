package netutil

import (
	"errors"
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tcaTBFBurst is TCA_TBF_BURST of pkt_sched.h: the burst in bytes. The older way, in time at the given
// rate, loses bytes to rounding.
const tcaTBFBurst = 6

// linklayerEthernet is TC_LINKLAYER_ETHERNET: no table of transmission times has to come along.
const linklayerEthernet = 1

// tickNS is the kernel's unit of packet scheduling time, in nanoseconds (PSCHED_SHIFT is 6).
const tickNS = 64

// Bucket is a token bucket filter (tc-tbf(8)) for what leaves a link.
type Bucket struct {
	Rate  uint64 // bytes per second
	Burst uint32 // bytes that may go at once after a pause
	Queue uint32 // bytes that may wait; what is beyond is dropped
}

// Alike says whether two buckets differ by no more than the kernel's rounding of the burst. A burst that
// takes longer than the 32 bits of ticks in which the kernel shows it is not compared.
func (b Bucket) Alike(o Bucket) bool {
	tick := float64(b.Rate) * tickNS / 1e9 // in bytes
	diff := math.Abs(float64(b.Burst) - float64(o.Burst))
	alike := diff <= 2*tick+2+float64(b.Burst)/1000 || float64(b.Burst) > tick*math.MaxUint32
	return b.Rate == o.Rate && b.Queue == o.Queue && alike
}

// SetBucket makes a token bucket the root queue of a link, in the place of any other.
func (h *Handle) SetBucket(index int, b Bucket) error {
	opt := nl.TcTbfQopt{Limit: b.Queue}
	opt.Rate.Rate = uint32(min(b.Rate, math.MaxUint32))
	opt.Rate.Linklayer = linklayerEthernet
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_TBF_PARMS, opt.Serialize())
	options.AddRtAttr(tcaTBFBurst, nl.Uint32Attr(b.Burst))
	if b.Rate > math.MaxUint32 {
		options.AddRtAttr(nl.TCA_TBF_RATE64, nl.Uint64Attr(b.Rate))
	}
	msg := &nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Parent: netlink.HANDLE_ROOT}
	_, err := h.request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK,
		msg, nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("tbf")), options)
	if err != nil {
		return fmt.Errorf("limit link number %d to %d bytes per second: %w", index, b.Rate, err)
	}
	return nil
}

// Bucket reads the token bucket of a link. Another root queue, or none, is ErrNotFound.
func (h *Handle) Bucket(index int) (Bucket, error) {
	list, err := ask(h, func(lib *netlink.Handle) ([]netlink.Qdisc, error) { return lib.QdiscList(byIndex(index)) })
	if err != nil {
		return Bucket{}, fmt.Errorf("list queues of link number %d: %w", index, classify(err))
	}
	for _, q := range list {
		if tbf, ok := q.(*netlink.Tbf); ok && tbf.Parent == netlink.HANDLE_ROOT {
			burst := float64(tbf.Buffer) * tickNS * float64(tbf.Rate) / 1e9
			return Bucket{Rate: tbf.Rate, Burst: uint32(min(burst, math.MaxUint32)), Queue: tbf.Limit}, nil
		}
	}
	return Bucket{}, fmt.Errorf("token bucket of link number %d: %w", index, errdefs.ErrNotFound)
}

// AddIfb makes an intermediate functional block, a link that queues what is redirected to it and lets it
// go on its way. It is down. mtu 0 is the kernel's default.
func (h *Handle) AddIfb(name string, mtu int) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("ifb"))
	data := []nl.NetlinkRequestData{nl.NewIfInfomsg(unix.AF_UNSPEC), info}
	for _, a := range nameMACMTU(name, nil, mtu) {
		data = append(data, a)
	}
	_, err := h.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, data...)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("add ifb %s: the kernel has no such links (CONFIG_IFB): %w", name, err)
	}
	if err != nil {
		return fmt.Errorf("add ifb %s: %w", name, err)
	}
	return nil
}

// ingressHandle is ffff:, the handle of the ingress queue.
var ingressHandle = netlink.MakeHandle(0xffff, 0)

// RedirectIngress sends all that arrives on a link to another link's queue. The link must not have an
// ingress queue yet.
func (h *Handle) RedirectIngress(index, to int) error {
	queue := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: ingressHandle, Parent: netlink.HANDLE_INGRESS,
	}}
	filter := &netlink.U32{ // without a selector it matches everything
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: ingressHandle, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(to)},
	}
	err := tell(h, func(lib *netlink.Handle) error { return lib.QdiscAdd(queue) })
	if err == nil {
		err = tell(h, func(lib *netlink.Handle) error { return lib.FilterAdd(filter) })
	}
	if err != nil {
		return fmt.Errorf("redirect link number %d to %d: %w", index, to, classify(err))
	}
	return nil
}

// IngressRedirect is the index of the link that all that arrives on a link is sent to, ErrNotFound when
// there is none.
func (h *Handle) IngressRedirect(index int) (int, error) {
	list, err := ask(h, func(lib *netlink.Handle) ([]netlink.Filter, error) {
		return lib.FilterList(byIndex(index), ingressHandle)
	})
	if err = absentOK(classify(err)); err != nil {
		return 0, fmt.Errorf("list filters of link number %d: %w", index, err)
	}
	for _, f := range list {
		u32, ok := f.(*netlink.U32)
		if !ok || u32.Protocol != unix.ETH_P_ALL {
			continue
		}
		for _, a := range u32.Actions {
			if m, ok := a.(*netlink.MirredAction); ok && m.MirredAction == netlink.TCA_EGRESS_REDIR {
				return m.Ifindex, nil
			}
		}
	}
	return 0, fmt.Errorf("redirect of link number %d: %w", index, errdefs.ErrNotFound)
}
