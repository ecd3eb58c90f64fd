package criserver

import (
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/stats"
	"github.com/podwright/podwright/pkg/netutil"
)

func number(n uint64) *runtime.UInt64Value { return &runtime.UInt64Value{Value: n} }

// known is nil for what is not known.
func known(n uint64, ok bool) *runtime.UInt64Value {
	if !ok {
		return nil
	}
	return number(n)
}

func (s *runtimeService) idleStatsOut(c pod.Container) *runtime.ContainerStats {
	return &runtime.ContainerStats{
		Attributes: &runtime.ContainerAttributes{
			Id: string(c.ID), Metadata: containerMetadataOut(c.Config), Labels: c.Config.Labels, Annotations: c.Config.Annotations,
		},
		WritableLayer: s.layerOut(s.Stats.Layer(c)),
	}
}

func (s *runtimeService) containerStatsOut(c pod.Container, u stats.Container) *runtime.ContainerStats {
	at := u.At.UnixNano()
	return &runtime.ContainerStats{
		Attributes: &runtime.ContainerAttributes{
			Id: string(c.ID), Metadata: containerMetadataOut(c.Config), Labels: c.Config.Labels, Annotations: c.Config.Annotations,
		},
		Cpu:           cpuOut(u.Usage, u.NanoCores),
		Memory:        memoryOut(u.Usage),
		WritableLayer: s.layerOut(u.Layer),
		Swap: &runtime.SwapUsage{
			Timestamp: at, SwapUsageBytes: number(u.Swap.Usage), SwapAvailableBytes: known(u.Swap.Available()),
		},
		Io: ioOut(u.Usage),
	}
}

func cpuOut(u stats.Usage, nanoCores *uint64) *runtime.CpuUsage {
	out := &runtime.CpuUsage{Timestamp: u.At.UnixNano(), UsageCoreNanoSeconds: number(u.CPU.Total), Psi: pressureOut(u.CPU.Pressure)}
	if nanoCores != nil {
		out.UsageNanoCores = number(*nanoCores)
	}
	return out
}

func memoryOut(u stats.Usage) *runtime.MemoryUsage {
	m := u.Memory
	return &runtime.MemoryUsage{
		Timestamp: u.At.UnixNano(), WorkingSetBytes: number(m.WorkingSet), AvailableBytes: known(m.Available()),
		UsageBytes: number(m.Usage), RssBytes: number(m.RSS),
		PageFaults: number(m.PageFaults), MajorPageFaults: number(m.MajorFaults), Psi: pressureOut(m.Pressure),
	}
}

func ioOut(u stats.Usage) *runtime.IoUsage {
	if u.IO == nil {
		return nil
	}
	return &runtime.IoUsage{Timestamp: u.At.UnixNano(), Psi: pressureOut(u.IO)}
}

func pressureOut(p *stats.Pressure) *runtime.PsiStats {
	if p == nil {
		return nil
	}
	return &runtime.PsiStats{Some: stallOut(p.Some), Full: stallOut(p.Full)}
}

func stallOut(s stats.Stall) *runtime.PsiData {
	return &runtime.PsiData{Total: s.Total, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
}

// layerOut names the file system as ImageFsInfo does: writable layers and images are on one.
func (s *runtimeService) layerOut(l *stats.Layer) *runtime.FilesystemUsage {
	if l == nil {
		return nil
	}
	return &runtime.FilesystemUsage{
		Timestamp: l.At.UnixNano(), FsId: &runtime.FilesystemIdentifier{Mountpoint: s.Layout.Images()},
		UsedBytes: number(l.Bytes), InodesUsed: number(l.Inodes),
	}
}

func sandboxStatsOut(s pod.Sandbox, u stats.Sandbox) *runtime.PodSandboxStats {
	return &runtime.PodSandboxStats{
		Attributes: &runtime.PodSandboxAttributes{
			Id: string(s.ID), Metadata: sandboxMetadataOut(s.Config), Labels: s.Config.Labels, Annotations: s.Config.Annotations,
		},
		Linux: &runtime.LinuxPodSandboxStats{
			Cpu: cpuOut(u.Usage, u.NanoCores), Memory: memoryOut(u.Usage), Io: ioOut(u.Usage),
			Network: trafficOut(u.Network),
			Process: &runtime.ProcessUsage{Timestamp: u.At.UnixNano(), ProcessCount: number(u.Processes)},
		},
	}
}

func trafficOut(n *stats.Network) *runtime.NetworkUsage {
	if n == nil {
		return nil
	}
	out := &runtime.NetworkUsage{Timestamp: nanos(n.At)}
	if n.Default != nil {
		out.DefaultInterface = interfaceOut(*n.Default)
	}
	for _, c := range n.Others {
		out.Interfaces = append(out.Interfaces, interfaceOut(c))
	}
	return out
}

func interfaceOut(c netutil.Counters) *runtime.NetworkInterfaceUsage {
	return &runtime.NetworkInterfaceUsage{
		Name: c.Name, RxBytes: number(c.RxBytes), RxErrors: number(c.RxErrors), TxBytes: number(c.TxBytes), TxErrors: number(c.TxErrors),
	}
}

// wholeSeconds is what a metric in seconds can show: its values are whole numbers.
func wholeSeconds(ns uint64) uint64 { return ns / uint64(time.Second) }
