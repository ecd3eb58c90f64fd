package e2e

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// requireUnified skips where what these tests look at does not exist.
func requireUnified(t *testing.T) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Skip("this host has no cgroup v2 (make test-vm has)")
	}
}

// cgroupFile reads a file of a container's cgroup; "" when this kernel has none.
func (n *tester) cgroupFile(id, name string) string {
	n.t.Helper()
	data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", n.ContainerCgroup(id), name))
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// hasFiles compares files of a container's cgroup. A wanted value "<" and a number means less than it.
func (n *tester) hasFiles(id string, want map[string]string) {
	n.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		got := n.cgroupFile(id, name)
		if most, less := strings.CutPrefix(want[name], "<"); less {
			g, err := strconv.Atoi(got)
			m, _ := strconv.Atoi(most)
			if err != nil || g >= m {
				n.t.Errorf("%s is %q, want less than %d", name, got, m)
			}
		} else if got != want[name] {
			n.t.Errorf("%s is %q, want %q", name, got, want[name])
		}
	}
}

const mebi = 1 << 20

// TestUnified: limits of the request and keys of its unified map are what the kernel has, at the start and after an
// update; one that is refused changes nothing; the container sees its own cgroup as the root, and cannot change it.
func TestUnified(t *testing.T) {
	requireUnified(t)
	n := newNode(t)
	p := n.pod("unified")
	id := n.run(p, "unified", "main", "sleep 1000", `"linux": {"resources": {"memory_limit_in_bytes": 67108864, "memory_swap_limit_in_bytes": 100663296,
 "cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512, "cpuset_cpus": "0",
 "hugepage_limits": [{"page_size": "2MB", "limit": 4194304}, {"page_size": "1GB", "limit": 0}],
 "unified": {"memory.high": "50331648", "memory.oom.group": "1", "pids.max": "100"}}}`)
	want := map[string]string{
		"memory.max": "67108864", "memory.swap.max": "33554432", "memory.high": "50331648", "memory.oom.group": "1", "memory.low": "0",
		"pids.max": "100", "cpu.max": "50000 100000", "cpu.weight": "<100", "cpuset.cpus": "0",
	}
	if n.cgroupFile(id, "hugetlb.2MB.max") != "" {
		want["hugetlb.2MB.max"] = "4194304"
	}
	n.hasFiles(id, want)

	cri := runtime.NewRuntimeServiceClient(n.dial())
	update := func(r *runtime.LinuxContainerResources) error {
		_, err := cri.UpdateContainerResources(t.Context(), &runtime.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
		return err
	}
	n.must(update(&runtime.LinuxContainerResources{
		MemoryLimitInBytes: 128 * mebi, MemorySwapLimitInBytes: 128 * mebi, CpuQuota: 20000, Unified: map[string]string{"memory.high": "max", "memory.low": "1048576"},
	}))
	maps.Copy(want, map[string]string{
		"memory.max": "134217728", "memory.swap.max": "0", "memory.high": "max", "memory.low": "1048576", "cpu.max": "20000 100000",
	})
	n.hasFiles(id, want)
	if err := update(&runtime.LinuxContainerResources{CpuQuota: 30000, Unified: map[string]string{"memory.low": "0", "memory.nonsense": "1"}}); err == nil {
		t.Error("memory.nonsense is no key of the kernel, and was accepted")
	}
	n.hasFiles(id, want)

	if got := n.exec(id, "cat", "/proc/self/cgroup"); got != "0::/" {
		t.Errorf("in the container: %q", got)
	}
	if got := n.exec(id, "cat", "/sys/fs/cgroup/memory.max"); got != "134217728" {
		t.Errorf("in the container: memory.max is %q", got)
	}
	if _, err := n.Crictl("exec", "--sync", id, "sh", "-c", "echo max >/sys/fs/cgroup/memory.max"); err == nil {
		t.Error("a container changes its own limit")
	}
}

// TestOOMGroup: one process of several takes too much memory. With memory.oom.group, which the kubelet sets, all end,
// else that one; in either case the end says why.
func TestOOMGroup(t *testing.T) {
	requireUnified(t)
	n := newNode(t)
	p := n.pod("oom")
	// The subshell is the one that grows; it would not be process 1 of the container. With systemd, what happens before
	// the OCI runtime has returned may go with the cgroup.
	const script = "sleep 1; (dd if=/dev/zero of=/dev/null bs=100M count=1); sleep 0.2; exit 3"
	for i := range 5 {
		for group, code := range map[string]int{"0": 3, "1": 137} {
			id := n.run(p, "oom", "main"+group+strconv.Itoa(i), script,
				`"linux": {"resources": {"memory_limit_in_bytes": 15728640, "unified": {"memory.oom.group": "`+group+`"}}}`)
			if got := n.ended(id).Status; got.ExitCode != code || got.Reason != "OOMKilled" {
				t.Errorf("memory.oom.group %s: got %+v, want code %d and OOMKilled", group, got, code)
			}
		}
	}
}

// TestWritableCgroup: a container of a handler that says so makes cgroups below its own, which go with it; one of another makes none.
func TestWritableCgroup(t *testing.T) {
	requireUnified(t)
	n := prepareNode(t)
	runc, err := exec.LookPath("runc")
	n.must(err)
	n.configure("[runtimes.writes]\npath = \"" + runc + "\"\ncgroup_writable = true\n")
	n.must(n.Start())
	n.crictl("pull", image)
	for handler, want := range map[string]string{"": "refused", "writes": "made"} {
		name := "cgroup" + handler
		file, err := n.File("pod-"+name+".json", n.PodJSON(name, false))
		n.must(err)
		id := n.run(n.crictl("runp", "--runtime", handler, file), name, "main", "exec sleep 1000", "")
		if got := n.exec(id, "sh", "-c", "mkdir /sys/fs/cgroup/below 2>/dev/null && echo made || echo refused"); got != want {
			t.Errorf("handler %q: %s, want %s", handler, got, want)
		}
	}
}
