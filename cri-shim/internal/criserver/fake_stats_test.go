package criserver

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/stats"
	"github.com/podwright/podwright/pkg/netutil"
)

func (p *fakePods) UpdateContainer(ctx context.Context, id string, change pod.Resources) error {
	return p.do(ctx, fmt.Sprintf("update %s %+v", id, change))
}

func (p *fakePods) UpdateSandbox(ctx context.Context, id string, overhead, resources *pod.Resources) error {
	return p.do(ctx, fmt.Sprintf("updatep %s %+v %+v", id, overhead, resources))
}

// fakeStats measures the same of everybody; gone names those who have just vanished.
type fakeStats struct{ gone map[pod.ID]bool }

var (
	measuredAt = time.Unix(1000, 5)
	nanoCores  = uint64(250)
)

func (s *fakeStats) usage(id pod.ID) (stats.Usage, error) {
	if s.gone[id] {
		return stats.Usage{}, fmt.Errorf("measure %s: %w", id, errdefs.ErrNotFound)
	}
	return stats.Usage{
		At:     measuredAt,
		CPU:    stats.CPU{Total: 7_500_000_000, Pressure: &stats.Pressure{Some: stats.Stall{Total: 3_000_000_000, Avg10: 1.5}, Full: stats.Stall{Total: 2}}},
		Memory: stats.Memory{Usage: 100, WorkingSet: 60, RSS: 50, Cache: 45, Limit: 1000, PageFaults: 8, MajorFaults: 9},
		Swap:   stats.Swap{Usage: 5, Limit: stats.None}, IO: &stats.Pressure{}, Processes: 3,
	}, nil
}

func (s *fakeStats) Container(c pod.Container) (stats.Container, error) {
	u, err := s.usage(c.ID)
	return stats.Container{Usage: u, Cgroup: "/pods/x/" + string(c.ID), NanoCores: &nanoCores, Layer: s.Layer(c)}, err
}

func (s *fakeStats) Layer(pod.Container) *stats.Layer {
	return &stats.Layer{At: time.Unix(900, 0), Bytes: 4096, Inodes: 2}
}

func (s *fakeStats) Details(pod.Container) (stats.Details, error) {
	return stats.Details{
		User: 5_000_000_000, MaxThreads: stats.None, OpenFiles: 1024,
		Devices: []stats.Device{{Name: "/dev/sda", Major: "8", Minor: "0", ReadBytes: 11, WriteBytes: 12, ReadCount: 13, WriteCount: 14}},
	}, nil
}

func (s *fakeStats) Sandbox(sb pod.Sandbox) (stats.Sandbox, error) {
	u, err := s.usage(sb.ID)
	return stats.Sandbox{Usage: u, Cgroup: "/pods/x", Network: &stats.Network{
		At: measuredAt, Default: &netutil.Counters{Name: "eth0", RxBytes: 1, RxErrors: 2, TxBytes: 3, TxErrors: 4},
		Others: []netutil.Counters{{Name: "net1", RxBytes: 21}},
	}}, err
}

func (s *fakeStats) FileSystem() (stats.FileSystem, error) {
	return stats.FileSystem{Device: "/dev/vda1", Bytes: 1 << 30, Inodes: 100, FreeInodes: 40}, nil
}

// fakeEvents gives every subscriber the same channels.
type fakeEvents struct {
	feed        chan pod.Event
	lost        chan struct{}
	subscribers atomic.Int32
}

func (e *fakeEvents) Subscribe() (<-chan pod.Event, <-chan struct{}, func()) {
	e.subscribers.Add(1)
	return e.feed, e.lost, func() { e.subscribers.Add(-1) }
}
