package kubelet

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// podStats is the part of a summary that tests look at; what is missing is 0.
type podStats struct {
	PodRef     struct{ Name string }
	Containers []struct {
		Name   string
		CPU    struct{ UsageNanoCores, UsageCoreNanoSeconds uint64 }
		Memory struct{ WorkingSetBytes, RSSBytes uint64 }
		Rootfs struct{ UsedBytes uint64 }
		Logs   struct{ UsedBytes uint64 }
	}
	CPU     struct{ UsageCoreNanoSeconds uint64 }
	Memory  struct{ WorkingSetBytes uint64 }
	Network struct {
		Name             string
		RxBytes, TxBytes uint64
	}
	ProcessStats struct {
		ProcessCount uint64 `json:"process_count"`
	} `json:"process_stats"`
}

func testStats(t *testing.T, w *world) {
	const name = "stats"
	w.pod(t, name, "containers:\n"+shell("main", "dd if=/dev/zero of=/file bs=1M count=3; echo log"+forever, ""))
	p := w.running(t, name)
	if conn, err := net.DialTimeout("tcp", net.JoinHostPort(p.Status.PodIP, "9"), 5*time.Second); err == nil { // the pod refuses
		_ = conn.Close()
		t.Error("somebody listens at port 9")
	}
	w.eventually(t, "statistics", 45*time.Second, func() string {
		text, err := w.Get(t.Context(), "/stats/summary")
		if err != nil {
			return err.Error()
		}
		var summary struct{ Pods []podStats }
		if err := json.Unmarshal([]byte(text), &summary); err != nil {
			return err.Error()
		}
		for _, p := range summary.Pods {
			if p.PodRef.Name == staticName(name) && len(p.Containers) == 1 {
				return p.missing()
			}
		}
		return "none of the pod"
	})
	for path, want := range map[string][]string{
		"/metrics/resource": {`container_cpu_usage_seconds_total{container="main",`, `pod="` + staticName(name) + `"`, "pod_memory_working_set_bytes"},
		"/metrics/cadvisor": {`container_memory_working_set_bytes{`, `container_network_receive_bytes_total{`, `pod="` + staticName(name) + `"`},
	} {
		text, err := w.Get(t.Context(), path)
		must(t, err)
		for _, s := range want {
			if !strings.Contains(text, s) {
				t.Errorf("%s has not %s", path, s)
			}
		}
	}
}

// missing names what is 0 and should not be.
func (p podStats) missing() string {
	c := p.Containers[0]
	var out []string
	for what, value := range map[string]uint64{
		"CPU": c.CPU.UsageCoreNanoSeconds, "CPU now": c.CPU.UsageNanoCores, "working set": c.Memory.WorkingSetBytes, "RSS": c.Memory.RSSBytes,
		"root file system": c.Rootfs.UsedBytes / 3_000_000, "log": c.Logs.UsedBytes,
		"CPU of the pod": p.CPU.UsageCoreNanoSeconds, "memory of the pod": p.Memory.WorkingSetBytes, "processes": p.ProcessStats.ProcessCount,
		"received": p.Network.RxBytes, "sent": p.Network.TxBytes,
	} {
		if value == 0 {
			out = append(out, what)
		}
	}
	if p.Network.Name != "eth0" {
		out = append(out, fmt.Sprintf("interface eth0, not %q", p.Network.Name))
	}
	return strings.Join(out, ", ")
}
