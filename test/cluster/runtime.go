package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/podwright/podwright/test/daemon"
)

// Runtime is what runs the pods of a node.
type Runtime string

// The runtimes.
const (
	CRIShim    Runtime = "cri-shim"
	Containerd Runtime = "containerd"
)

func (n *Node) socket() string {
	if n.Runtime == Containerd {
		return "/run/containerd/containerd.sock"
	}
	return "/run/cri-shim/cri-shim.sock"
}

// runtimeFiles are the configuration of the runtime and the template of its network, below the node's directory. Pods keep their
// addresses on the way to other nodes, and nothing leads further.
func (n *Node) runtimeFiles() map[string]string {
	p := n.cluster.programs
	if n.Runtime == Containerd {
		return map[string]string{
			"containerd.toml": fmt.Sprintf(`version = 3
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %[1]q
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = %[2]q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [%[3]q]
  conf_dir = "/etc/cni/net.d"
  conf_template = %[4]q
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`, Pause, n.cluster.Dir+"/hosts", p.Tools, n.base+"/cni.template"),
			"cni.template": `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$r}}"}]{{end}}], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
`,
		}
	}
	return map[string]string{
		"cri-shim.toml": fmt.Sprintf(`cgroup_driver = "cgroupfs"
cgroup_parent = %[1]q
runtime = %[2]q
[log]
level = %[6]q
[cni]
bin_dirs = [%[3]q]
conf_template = %[4]q
[image]
registry_config_dir = %[5]q
`, n.Cgroup, p.Tools+"/runc", p.Bin, p.Conf+"/cni/pod-ranges.template", n.cluster.Dir+"/hosts", cmp.Or(p.LogLevel, "info")),
	}
}

// StartRuntime starts the node's runtime and returns when it answers.
func (n *Node) StartRuntime(ctx context.Context) error {
	args := []string{filepath.Join(n.cluster.programs.Bin, "cri-shim"), "serve", "--config", n.base + "/cri-shim.toml"}
	if n.Runtime == Containerd {
		path := n.cluster.programs.Containerd + ":" + n.cluster.programs.Tools + ":/usr/sbin:/usr/bin:/sbin:/bin"
		args = []string{"env", "PATH=" + path, filepath.Join(n.cluster.programs.Containerd, "containerd"), "--config", n.base + "/containerd.toml"}
	}
	args, err := n.inRuntimeCgroup(args...)
	if err != nil {
		return err
	}
	args = n.Args(args...)
	if n.runtime, err = daemon.Start(string(n.Runtime), n.Log(string(n.Runtime)), exec.Command(args[0], args[1:]...)); err != nil {
		return err
	}
	return n.runtime.Await(ctx, func(ctx context.Context) error { _, err := n.Crictl(ctx, "version"); return err })
}

// CPU is the processor time that the node's runtime has used: its daemons and what they have started, until that had the cgroup of
// a pod.
func (n *Node) CPU() (time.Duration, error) {
	dir, err := accounting(n.RuntimeCgroup())
	if err != nil {
		return 0, err
	}
	var v1 int64
	if data, err := os.ReadFile(dir + "/cpuacct.usage"); err == nil {
		_, err := fmt.Sscan(string(data), &v1)
		return time.Duration(v1), err
	}
	data, err := os.ReadFile(dir + "/cpu.stat")
	if err != nil {
		return 0, err
	}
	var µs int64
	_, err = fmt.Sscanf(string(data), "usage_usec %d", &µs) // the first line of cgroup v2's
	return time.Duration(µs) * time.Microsecond, err
}

// KillRuntime ends the daemon of the node's runtime by kill -9.
func (n *Node) KillRuntime() error {
	err := n.runtime.End(syscall.SIGKILL)
	n.runtime = nil
	return err
}

// Crictl runs crictl on the node and returns its output.
func (n *Node) Crictl(ctx context.Context, args ...string) (string, error) {
	endpoint := "unix://" + n.socket()
	cmd := n.Command(ctx, append([]string{filepath.Join(n.cluster.programs.Tools, "crictl"),
		"--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "60s"}, args...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: crictl %s: %w: %s", n.Name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// stopRuntime removes the pods that are still there, and ends the runtime with all of its daemons.
func (n *Node) stopRuntime() error {
	if n.runtime == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	_, err := n.Crictl(ctx, "rmp", "--all", "--force")
	return errors.Join(err, n.runtime.End(syscall.SIGTERM), n.endMonitor())
}

// endMonitor ends cri-monitor, which outlives cri-shim.
func (n *Node) endMonitor() error {
	if n.Runtime != CRIShim {
		return nil
	}
	out, err := n.Command(context.Background(), "cat", "/run/cri-shim/monitor/pid").Output()
	if err != nil {
		return nil //nolint:nilerr // it never ran
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return fmt.Errorf("pid of cri-monitor: %w", err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end cri-monitor: %w", err)
	}
	for range 1000 {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(stat), ") Z ") {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("cri-monitor %d does not end", pid)
}
