package shaper

import (
	"math"
	"testing"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

func TestBucket(t *testing.T) {
	const frame = 1500 + header
	for name, c := range map[string]struct {
		limit Limit
		mtu   int
		want  netutil.Bucket
	}{
		"as asked for":          {Limit{80e6, 8e6}, 1500, netutil.Bucket{Rate: 10e6, Burst: 1e6, Queue: 1e6 + 250e3}},
		"the kubelet's burst":   {Limit{100e6, math.MaxInt32}, 0, netutil.Bucket{Rate: 12.5e6, Burst: 125e3, Queue: 125e3 + 312500}},
		"containerd's":          {Limit{100e6, math.MaxUint32}, 0, netutil.Bucket{Rate: 12.5e6, Burst: 125e3, Queue: 125e3 + 312500}},
		"CRI-O's":               {Limit{100e6, 8 * math.MaxUint32}, 0, netutil.Bucket{Rate: 12.5e6, Burst: 125e3, Queue: 125e3 + 312500}},
		"slow":                  {Limit{1e6, math.MaxInt32}, 1500, netutil.Bucket{Rate: 125e3, Burst: 2 * frame, Queue: 12 * frame}},
		"less than a frame":     {Limit{80e6, 8}, 9000, netutil.Bucket{Rate: 10e6, Burst: 9018, Queue: 9018 + 250e3}},
		"more than a queue has": {Limit{80e6, 8 * math.MaxUint32 / 2}, 1500, netutil.Bucket{Rate: 10e6, Burst: math.MaxUint32 / 2, Queue: math.MaxUint32/2 + 250e3}},
		"beyond all":            {Limit{math.MaxUint64, math.MaxInt32}, 1500, netutil.Bucket{Rate: math.MaxUint64 / 8, Burst: math.MaxUint32, Queue: math.MaxUint32}},
	} {
		if got := c.limit.Bucket(c.mtu); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestKernelKeepsBuckets: what is set is what is read, at all rates and bursts.
func TestKernelKeepsBuckets(t *testing.T) {
	ns, err := netutil.OpenNS(nettest.NewNS(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	h, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.AddIfb("ifb", 1500); err != nil {
		t.Fatal(err)
	}
	link, err := h.Link("ifb")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []Limit{
		{8, 8}, {1000, math.MaxInt32}, {1e6, 1e5}, {100e6, math.MaxUint32}, {1e9, 12345678}, {10e9, 8 * (math.MaxUint32 - 1)},
		{40e9, math.MaxInt32}, {1e12, 1e9}, {1e15, math.MaxInt32},
	} {
		if err := Ingress(h, link, l); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
		if err := CheckIngress(h, link, l); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
		if other := (Limit{l.Rate * 2, l.Burst}); CheckIngress(h, link, other) == nil {
			t.Errorf("%+v: no fault seen", other)
		}
	}
}
