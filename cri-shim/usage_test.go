package crishim

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventually asks again until the answer is right.
func eventually(t *testing.T, what string, right func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !right(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (f *fixture) stats(id string) *runtime.ContainerStats {
	f.t.Helper()
	resp, err := f.ContainerStats(f.t.Context(), &runtime.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		f.t.Fatalf("%v\n%s", err, f.log)
	}
	return resp.GetStats()
}

// TestStatsForReal measures a container that works: it burns CPU, holds memory and has written a file.
func TestStatsForReal(t *testing.T) {
	f := newFixture(t)
	sandbox := f.sandbox()
	const mib = 1 << 20
	id := f.container(sandbox, "busy", "/bin/sh", "-c", "head -c 4194304 /dev/zero >/file; ln /file /again; mkdir /d; while :; do :; done")
	f.started(id)
	eventually(t, "4 MiB in the writable layer", func() bool {
		l := f.stats(id).GetWritableLayer()
		return l.GetUsedBytes().GetValue() >= 4*mib
	})
	// The root, /file under both names, /d.
	if l := f.stats(id).GetWritableLayer(); l.GetUsedBytes().GetValue() > 5*mib || l.GetInodesUsed().GetValue() < 3 || l.GetInodesUsed().GetValue() > 12 {
		t.Errorf("writable layer: %v", l)
	}
	first := f.stats(id)
	time.Sleep(1200 * time.Millisecond)
	second := f.stats(id)
	spent := second.GetCpu().GetUsageCoreNanoSeconds().GetValue() - first.GetCpu().GetUsageCoreNanoSeconds().GetValue()
	passed := uint64(second.GetCpu().GetTimestamp() - first.GetCpu().GetTimestamp())
	if spent == 0 || spent > 2*passed {
		t.Errorf("an endless loop used %d ns in %d ns", spent, passed)
	}
	if n := second.GetCpu().GetUsageNanoCores().GetValue(); n == 0 || n > 1_500_000_000 {
		t.Errorf("an endless loop uses %d nano cores", n)
	}
	m := second.GetMemory()
	if m.GetUsageBytes().GetValue() < 4096 || m.GetWorkingSetBytes().GetValue() > m.GetUsageBytes().GetValue() || m.GetPageFaults().GetValue() == 0 {
		t.Errorf("memory: %v", m)
	}
	pods, err := f.ListPodSandboxStats(t.Context(), &runtime.ListPodSandboxStatsRequest{})
	if err != nil || len(pods.GetStats()) != 1 {
		t.Fatalf("got %v, %v", pods, err)
	}
	pod := pods.GetStats()[0].GetLinux()
	if pod.GetProcess().GetProcessCount().GetValue() < 1 || len(pod.GetContainers()) != 1 || pod.GetCpu().GetUsageCoreNanoSeconds().GetValue() < spent {
		t.Errorf("pod: %v", pod)
	}
	if _, err := f.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if s := f.stats(id); s.GetCpu() != nil || s.GetWritableLayer().GetUsedBytes().GetValue() < 4*mib {
		t.Errorf("of a container that has ended: %v", s)
	}
	list, err := f.ListContainerStats(t.Context(), &runtime.ListContainerStatsRequest{})
	if err != nil || len(list.GetStats()) != 0 {
		t.Errorf("a container that has ended is listed: %v, %v", list, err)
	}
	f.removeAll(sandbox)
}

// TestMetricsForReal compares the values with the descriptors.
func TestMetricsForReal(t *testing.T) {
	f := newFixture(t)
	sandbox := f.sandbox()
	id := f.container(sandbox, "main", "/bin/sh", "-c", "while :; do :; done")
	f.started(id)
	time.Sleep(1100 * time.Millisecond)
	descriptors, err := f.ListMetricDescriptors(t.Context(), &runtime.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string][]string{}
	for _, d := range descriptors.GetDescriptors() {
		labels[d.GetName()] = d.GetLabelKeys()
	}
	resp, err := f.ListPodSandboxMetrics(t.Context(), &runtime.ListPodSandboxMetricsRequest{})
	if err != nil || len(resp.GetPodMetrics()) != 1 || len(resp.GetPodMetrics()[0].GetContainerMetrics()) != 1 {
		t.Fatalf("got %v, %v", resp, err)
	}
	got := map[string]uint64{}
	for _, m := range resp.GetPodMetrics()[0].GetContainerMetrics()[0].GetMetrics() {
		got[m.GetName()] = m.GetValue().GetValue()
		if len(m.GetLabelValues()) != len(labels[m.GetName()]) {
			t.Errorf("%s: labels %v, values %v", m.GetName(), labels[m.GetName()], m.GetLabelValues())
		}
	}
	for name, least := range map[string]uint64{
		"container_cpu_usage_seconds_total": 0, "container_memory_working_set_bytes": 4096, "container_memory_rss": 1,
		"container_processes": 1, "container_threads": 1, "container_file_descriptors": 3, "container_ulimits_soft": 1,
		"container_start_time_seconds": uint64(time.Now().Add(-time.Minute).Unix()), "container_fs_limit_bytes": 1 << 20,
		"container_last_seen": uint64(time.Now().Add(-time.Minute).Unix()), "container_memory_max_usage_bytes": 4096,
	} {
		if v, ok := got[name]; !ok || v < least {
			t.Errorf("%s = %d, %v", name, v, ok)
		}
	}
	t.Logf("%d metrics of one container: %v", len(got), got)
	f.removeAll(sandbox)
}

// cgroupFile reads a limit as the kernel has it, in either version of cgroups.
func (f *fixture) cgroupFile(id, v1, v2 string) string {
	f.t.Helper()
	for _, file := range []string{"/sys/fs/cgroup/" + filepath.Dir(v1) + f.cfg.CgroupParent + "/" + id + "/" + filepath.Base(v1), "/sys/fs/cgroup" + f.cfg.CgroupParent + "/" + id + "/" + v2} {
		if data, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	f.t.Fatalf("no %s and no %s for %s", v1, v2, id)
	return ""
}

func (f *fixture) update(id string, r *runtime.LinuxContainerResources) error {
	_, err := f.UpdateContainerResources(f.t.Context(), &runtime.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
	return err
}

func TestUpdateForReal(t *testing.T) {
	f := newFixture(t)
	sandbox := f.sandbox()
	id := f.container(sandbox, "main", "/bin/sh", "-c", "head -c 20971520 /dev/zero | tail -c 20971520 | sleep 1000; sleep 1000")
	const mib = 1 << 20

	// Created only: the stored configuration changes, and the start takes it.
	if err := f.update(id, &runtime.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 * mib}); err != nil {
		t.Fatalf("%v\n%s", err, f.log)
	}
	f.started(id)
	memory := func() string { return f.cgroupFile(id, "memory/memory.limit_in_bytes", "memory.max") }
	if got := memory(); got != strconv.Itoa(64*mib) {
		t.Errorf("memory limit after the start: %s", got)
	}
	// Running: the cgroup changes, what is 0 stays.
	if err := f.update(id, &runtime.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 128 * mib}); err != nil {
		t.Fatalf("%v\n%s", err, f.log)
	}
	if got := memory(); got != strconv.Itoa(128*mib) {
		t.Errorf("memory limit: %s", got)
	}
	if got := f.cgroupFile(id, "cpu/cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "50000") {
		t.Errorf("quota: %s", got)
	}
	want := func(when string) {
		t.Helper()
		r := f.status(id).GetResources().GetLinux()
		if r.GetCpuShares() != 512 || r.GetCpuQuota() != 50000 || r.GetCpuPeriod() != 100000 || r.GetMemoryLimitInBytes() != 128*mib {
			t.Errorf("%s: status %v", when, r)
		}
	}
	want("after the update")
	f.restart(f.cfg)
	want("after a restart")

	eventually(t, "20 MiB in use", func() bool { return f.stats(id).GetMemory().GetRssBytes().GetValue() > 20*mib })
	// All or nothing: the processors and the quota would be fine, the memory is in use.
	err := f.update(id, &runtime.LinuxContainerResources{CpusetCpus: "0", CpuQuota: 20000, MemoryLimitInBytes: 1 * mib})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a limit below what is in use: %v", err)
	}
	err = f.update(id, &runtime.LinuxContainerResources{MemoryLimitInBytes: 256 * mib, CpusetCpus: "4000"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a processor that does not exist: %v", err)
	}
	if got := memory(); got != strconv.Itoa(128*mib) {
		t.Errorf("memory limit after refusals: %s", got)
	}
	if got := f.cgroupFile(id, "cpu/cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "50000") {
		t.Errorf("quota after refusals: %s", got)
	}
	if got := f.cgroupFile(id, "cpuset/cpuset.cpus", "cpuset.cpus"); got == "0" {
		t.Error("processors after refusals: 0")
	}
	want("after refusals")
	for range 2 {
		if _, err := f.UpdatePodSandboxResources(t.Context(), &runtime.UpdatePodSandboxResourcesRequest{
			PodSandboxId: sandbox, Resources: &runtime.LinuxContainerResources{CpuShares: 700},
		}); err != nil {
			t.Error(err)
		}
	}
	sb, err := f.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: sandbox, Verbose: true})
	if err != nil || !strings.Contains(sb.GetInfo()["info"], `"resources":{"linux":{"cpu_shares":700}}`) {
		t.Errorf("got %v, %v", sb.GetInfo(), err)
	}
	f.removeAll(sandbox)
}

// TestEventsForReal follows a container that is stopped and one that ends by itself.
func TestEventsForReal(t *testing.T) {
	f := newFixture(t)
	stream, err := f.GetContainerEvents(t.Context(), &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Version(t.Context(), &runtime.VersionRequest{}); err != nil { // same connection: the stream has begun
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	begin := time.Now().UnixNano()
	sandbox := f.sandbox()
	long := f.container(sandbox, "long", "/bin/sleep", "1000")
	f.started(long)
	short := f.container(sandbox, "short", "/bin/true")
	f.started(short)
	f.awaitEnd(short)
	if _, err := f.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for range 12 {
		e, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		got[e.GetContainerId()] = append(got[e.GetContainerId()], strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(e.GetContainerEventType().String(), "CONTAINER_"), "_EVENT")))
		if e.GetCreatedAt() < begin || e.GetPodSandboxStatus().GetMetadata().GetUid() != "u-1" {
			t.Errorf("event without its pod: %v", e)
		}
		if e.GetContainerEventType() == runtime.ContainerEventType_CONTAINER_STARTED_EVENT && e.GetContainerId() == short && len(e.GetContainersStatuses()) != 2 {
			t.Errorf("containers: %v", e.GetContainersStatuses())
		}
	}
	for id, name := range map[string]string{sandbox: "sandbox", long: "long", short: "short"} {
		if all := strings.Join(got[id], " "); all != "created started stopped deleted" {
			t.Errorf("%s: %s", name, all)
		}
	}
	f.end(t) // the stream does not keep the server from ending
	if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) || status.Code(err) != codes.Unavailable {
		t.Errorf("at the server's end: %v", err)
	}
}
