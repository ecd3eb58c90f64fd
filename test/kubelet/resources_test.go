package kubelet

import (
	"os"
	"strings"
	"testing"
)

// cgroupFile reads a file of a container's cgroup: controller and name by version 1, or the name by version 2.
func (w *world) cgroupFile(t *testing.T, p Pod, container, qos, v1, v2 string) string {
	t.Helper()
	id := strings.TrimPrefix(p.Container(container).ContainerID, "cri-shim://")
	path := w.node.CgroupParent + "/kubepods" + qos + "/pod" + p.Metadata.UID + "/" + id + "/"
	controller, name, _ := strings.Cut(v1, "/")
	full := "/sys/fs/cgroup/" + controller + path + name
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		full = "/sys/fs/cgroup" + path + v2
	}
	data, err := os.ReadFile(full)
	must(t, err)
	return strings.TrimSpace(string(data))
}

func testResources(t *testing.T, w *world) {
	const name = "resources"
	w.pod(t, name, "containers:\n"+
		shell("main", "true"+forever, "resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}"))
	p := w.running(t, name)
	equal(t, "memory", w.cgroupFile(t, p, "main", "/burstable", "memory/memory.limit_in_bytes", "memory.max"), "67108864")
	quota := w.cgroupFile(t, p, "main", "/burstable", "cpu/cpu.cfs_quota_us", "cpu.max")
	equal(t, "quota", strings.TrimSuffix(quota, " 100000"), "50000")
	if shares := w.cgroupFile(t, p, "main", "/burstable", "cpu/cpu.shares", "cpu.weight"); shares != "102" && shares != "4" && shares != "17" {
		t.Errorf("share of the CPU: %s, want 102 with version 1, 4 or 17 with version 2", shares)
	}

	w.pod(t, name+"-none", "containers:\n"+shell("main", "true"+forever, ""))
	p = w.running(t, name+"-none")
	equal(t, "share of the CPU without a request", w.cgroupFile(t, p, "main", "/besteffort", "cpu/cpu.shares", "cpu.weight")[:1], map[bool]string{true: "2", false: "1"}[v1()])
	equal(t, "OOM score without a request", w.run(t, name+"-none", "main", "cat /proc/1/oom_score_adj"), "1000\n")

	w.pod(t, name+"-all", "containers:\n"+shell("main", "true"+forever, "resources: {limits: {cpu: 200m, memory: 48Mi}}"))
	p = w.running(t, name+"-all")
	equal(t, "memory", w.cgroupFile(t, p, "main", "", "memory/memory.limit_in_bytes", "memory.max"), "50331648")
}

func v1() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err != nil
}

func testOutOfMemory(t *testing.T, w *world) {
	const name = "oom"
	w.pod(t, name, never+"containers:\n"+shell("main", "exec tail /dev/zero", "resources: {limits: {memory: 32Mi}}"))
	p := w.ended(t, name, "Failed")
	equal(t, "end", exit(t, p.Container("main").State), "137 OOMKilled")
}
