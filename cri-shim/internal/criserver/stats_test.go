package criserver

import (
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// busyWorld has three containers in a ready sandbox, of which two run, and a sandbox that is not ready.
func busyWorld(t *testing.T) *world {
	w := podWorld(t)
	w.pods.sandboxes[0].State, w.pods.sandboxes[1].State = pod.Ready, pod.NotReady
	w.pods.containers = manyContainers(3)
	w.pods.containers[2].State = pod.Exited
	return w
}

func TestContainerStats(t *testing.T) {
	w := busyWorld(t)
	id := string(w.pods.containers[0].ID)
	resp, err := w.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	s := resp.GetStats()
	if s.GetAttributes().GetId() != id || s.GetAttributes().GetMetadata().GetName() != "c" || len(s.GetAttributes().GetAnnotations()) != 1 {
		t.Errorf("attributes of %s", s.GetAttributes().GetId())
	}
	at := measuredAt.UnixNano()
	if c := s.GetCpu(); c.GetTimestamp() != at || c.GetUsageCoreNanoSeconds().GetValue() != 7_500_000_000 || c.GetUsageNanoCores().GetValue() != 250 ||
		c.GetPsi().GetSome().GetTotal() != 3_000_000_000 || c.GetPsi().GetSome().GetAvg10() != 1.5 || c.GetPsi().GetFull().GetTotal() != 2 {
		t.Errorf("cpu: %v", c)
	}
	if m := s.GetMemory(); m.GetTimestamp() != at || m.GetWorkingSetBytes().GetValue() != 60 || m.GetAvailableBytes().GetValue() != 940 ||
		m.GetUsageBytes().GetValue() != 100 || m.GetRssBytes().GetValue() != 50 || m.GetPageFaults().GetValue() != 8 || m.GetMajorPageFaults().GetValue() != 9 || m.GetPsi() != nil {
		t.Errorf("memory: %v", m)
	}
	if v := s.GetSwap(); v.GetSwapUsageBytes().GetValue() != 5 || v.GetSwapAvailableBytes() != nil || s.GetIo().GetPsi() == nil {
		t.Errorf("swap: %v, io: %v", v, s.GetIo())
	}
	if l := s.GetWritableLayer(); l.GetUsedBytes().GetValue() != 4096 || l.GetInodesUsed().GetValue() != 2 || l.GetTimestamp() == at || l.GetFsId().GetMountpoint() == "" {
		t.Errorf("writable layer: %v", l)
	}
	ended, err := w.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: string(w.pods.containers[2].ID)})
	if err != nil || ended.GetStats().GetCpu() != nil || ended.GetStats().GetWritableLayer() == nil {
		t.Errorf("of one that has ended: %v, %v", ended, err)
	}
	_, err = w.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: "ffff"})
	wantCode(t, err, codes.NotFound, "")
	_, err = w.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{})
	wantCode(t, err, codes.InvalidArgument, "container_id")
}

func TestListContainerStats(t *testing.T) {
	w := busyWorld(t)
	for name, c := range map[string]struct {
		filter *runtime.ContainerStatsFilter
		want   int
	}{
		"all that run":   {nil, 2},
		"by id":          {&runtime.ContainerStatsFilter{Id: string(w.pods.containers[1].ID)}, 1},
		"one that ended": {&runtime.ContainerStatsFilter{Id: string(w.pods.containers[2].ID)}, 0},
		"no such id":     {&runtime.ContainerStatsFilter{Id: "non-existent-id"}, 0},
		"by label":       {&runtime.ContainerStatsFilter{LabelSelector: map[string]string{"odd": "1"}}, 1},
		"by sandbox":     {&runtime.ContainerStatsFilter{PodSandboxId: string(testID)[:9]}, 2},
		"other sandbox":  {&runtime.ContainerStatsFilter{PodSandboxId: string(otherID)}, 0},
	} {
		resp, err := w.ListContainerStats(t.Context(), &runtime.ListContainerStatsRequest{Filter: c.filter})
		if err != nil || len(resp.GetStats()) != c.want {
			t.Errorf("%s: %d, want %d, %v", name, len(resp.GetStats()), c.want, err)
		}
	}
	w.stats.gone = map[pod.ID]bool{w.pods.containers[0].ID: true}
	resp, err := w.ListContainerStats(t.Context(), &runtime.ListContainerStatsRequest{})
	if err != nil || len(resp.GetStats()) != 1 {
		t.Errorf("one vanishes: %d, %v", len(resp.GetStats()), err)
	}
}

func TestPodSandboxStats(t *testing.T) {
	w := busyWorld(t)
	resp, err := w.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: string(testID)})
	if err != nil {
		t.Fatal(err)
	}
	l := resp.GetStats().GetLinux()
	if resp.GetStats().GetAttributes().GetId() != string(testID) || l.GetProcess().GetProcessCount().GetValue() != 3 || len(l.GetContainers()) != 2 {
		t.Errorf("got %v", resp.GetStats().GetAttributes())
	}
	if w.stats.running != 2 || !w.stats.alone {
		t.Errorf("measured with %d containers, alone %v", w.stats.running, w.stats.alone)
	}
	w.pods.sandboxes[1].State = pod.Ready // with the same cgroup parent
	if _, err := w.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: string(testID)}); err != nil || w.stats.alone {
		t.Errorf("beside another pod: alone %v, %v", w.stats.alone, err)
	}
	w.pods.sandboxes[1].State = pod.NotReady
	n := l.GetNetwork()
	if d := n.GetDefaultInterface(); n.GetTimestamp() == 0 || d.GetName() != "eth0" || d.GetRxBytes().GetValue() != 1 || d.GetRxErrors().GetValue() != 2 ||
		d.GetTxBytes().GetValue() != 3 || d.GetTxErrors().GetValue() != 4 || len(n.GetInterfaces()) != 1 || n.GetInterfaces()[0].GetName() != "net1" {
		t.Errorf("network: %v", n)
	}
	_, err = w.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: string(otherID)})
	wantCode(t, err, codes.FailedPrecondition, "not ready")
	_, err = w.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: "ffff"})
	wantCode(t, err, codes.NotFound, "")

	list, err := w.ListPodSandboxStats(t.Context(), &runtime.ListPodSandboxStatsRequest{})
	if err != nil || len(list.GetStats()) != 1 {
		t.Errorf("got %v, %v", list, err)
	}
	w.stats.gone = map[pod.ID]bool{testID: true}
	list, err = w.ListPodSandboxStats(t.Context(), &runtime.ListPodSandboxStatsRequest{})
	if err != nil || len(list.GetStats()) != 0 {
		t.Errorf("it vanishes: %v, %v", list, err)
	}
}

// TestMetrics: every value has a descriptor, as many label values as keys, in the keys' order.
func TestMetrics(t *testing.T) {
	w := busyWorld(t)
	w.network.check = map[pod.ID]pod.NetworkCheck{testID: {Checks: 31, Failures: 30}}
	described, err := w.ListMetricDescriptors(t.Context(), &runtime.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range described.GetDescriptors() {
		if keys[d.GetName()] != nil || d.GetHelp() == "" {
			t.Errorf("descriptor %v", d)
		}
		keys[d.GetName()] = d.GetLabelKeys()
	}
	resp, err := w.ListPodSandboxMetrics(t.Context(), &runtime.ListPodSandboxMetricsRequest{})
	if err != nil || len(resp.GetPodMetrics()) != 1 {
		t.Fatalf("got %v, %v", resp, err)
	}
	p := resp.GetPodMetrics()[0]
	values := map[string]uint64{} // name, then what is not common to all
	seen := map[string]bool{}
	note := func(m *runtime.Metric) {
		if len(keys[m.GetName()]) != len(m.GetLabelValues()) {
			t.Fatalf("%s: keys %q, values %q", m.GetName(), keys[m.GetName()], m.GetLabelValues())
		}
		seen[m.GetName()] = true
		text := m.GetName()
		for i, key := range keys[m.GetName()] {
			if i >= len(baseLabels) || key == "container" || key == "id" {
				text += " " + key + "=" + m.GetLabelValues()[i]
			}
		}
		values[text] = m.GetValue().GetValue()
	}
	for _, m := range append(p.GetMetrics(), p.GetContainerMetrics()[0].GetMetrics()...) {
		note(m)
	}
	c := "id=/pods/x/" + p.GetContainerMetrics()[0].GetContainerId() + " container=c"
	for text, want := range map[string]uint64{
		"container_cpu_usage_seconds_total " + c:                                                      7,
		"container_cpu_user_seconds_total " + c:                                                       5,
		"container_pressure_cpu_waiting_seconds_total " + c:                                           3,
		"container_memory_failures_total " + c + " failure_type=pgmajfault scope=container":           9,
		"container_fs_writes_bytes_total " + c + " device=/dev/sda":                                   12,
		"container_fs_usage_bytes " + c + " device=/dev/vda1":                                         4096,
		"container_blkio_device_usage_total " + c + " device=/dev/sda major=8 minor=0 operation=Read": 11,
		"container_threads_max " + c:                                                                  0,
		"container_ulimits_soft " + c + " ulimit=max_open_files":                                      1024,
		"container_spec_cpu_period " + c:                                                              100000,
		"container_network_receive_bytes_total id=/pods/x container=POD interface=eth0":               1,
		"container_network_receive_bytes_total id=/pods/x container=POD interface=net1":               21,
		"cri_shim_network_checks_total id=/pods/x container=POD":                                      31,
		"cri_shim_network_check_failures_total id=/pods/x container=POD":                              30,
	} {
		if got, ok := values[text]; !ok || got != want {
			t.Errorf("%s = %d, %v, want %d", text, got, ok, want)
		}
	}
	for name := range keys {
		if !seen[name] && name != "container_pressure_memory_waiting_seconds_total" && name != "container_pressure_memory_stalled_seconds_total" {
			t.Errorf("%s is described and has no value", name)
		}
	}
}
