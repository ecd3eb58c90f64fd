// Package peer runs an unmodified containerd in the directories and on the images of a test node, so that it can be
// measured beside podwright, and so that bridge-ipam can be tested under a runtime that is not ours.
package peer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/podwright/podwright/test/node"
)

// SandboxImage is what containerd's own process per pod runs.
const SandboxImage = "podwright.test/pause:latest"

// Containerd is one running containerd.
type Containerd struct {
	Socket       string
	CgroupParent string // for its pods; it is removed with it
	base         string
	cmd          *exec.Cmd
}

// Programs are where containerd and the plugins of its network are.
type Programs struct {
	Dir     string // of containerd and containerd-shim-runc-v2
	Plugins string // of CNI plugins, loopback among them
}

// Start starts containerd with one CNI network, in a directory of the node and with the node's registry. It
// returns once the socket is there. The caller stops it before the node.
func Start(n *node.Node, p Programs, conflist string) (*Containerd, error) {
	c := &Containerd{base: n.Base + "/containerd", Socket: n.Base + "/containerd.sock", CgroupParent: n.CgroupParent + "-peer"}
	if err := os.MkdirAll(c.base+"/net.d", 0o711); err != nil {
		return nil, err
	}
	// Like the node's, its state is in memory, as /run is.
	if err := os.Mkdir(c.base+"/state", 0o711); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", c.base+"/state", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0711"); err != nil {
		return nil, fmt.Errorf("mount containerd's state: %w", err)
	}
	for path, content := range map[string]string{
		c.base + "/net.d/10.conflist": conflist,
		c.base + "/config.toml":       c.config(n, p),
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(c.base + "/log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.cmd = exec.Command(filepath.Join(p.Dir, "containerd"), "--config", c.base+"/config.toml")
	c.cmd.Env = append(os.Environ(), "PATH="+p.Dir+":/usr/sbin:/usr/bin:/sbin:/bin")
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	for range 400 {
		if _, err := os.Stat(c.Socket); err == nil {
			return c, nil
		}
		time.Sleep(25 * time.Millisecond)
	}
	return nil, errors.Join(fmt.Errorf("containerd has no socket:\n%s", c.Log()), c.Stop())
}

// config is containerd's default one but for what lets it live here: directories of its own, a sandbox image from
// the node's registry, and no lowering of OOM scores, which not every machine allows.
func (c *Containerd) config(n *node.Node, p Programs) string {
	return fmt.Sprintf(`version = 3
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "%[2]s"
[ttrpc]
  address = "%[2]s.ttrpc"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "%[3]s"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "%[4]s"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["%[5]s"]
  conf_dir = "%[1]s/net.d"
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`, c.base, c.Socket, SandboxImage, n.Hosts, p.Plugins)
}

// PIDs are containerd's process, its helpers, and its process per pod: all that there is only because of it.
func (c *Containerd) PIDs() ([]int, error) {
	pids := []int{c.cmd.Process.Pid}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline") // it may have ended meanwhile
		words := strings.Split(string(cmdline), "\x00")
		shim := strings.HasSuffix(words[0], "containerd-shim-runc-v2") && slices.Contains(words, c.Socket)
		if shim || len(words) > 1 && words[1] == SandboxSeconds {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// SandboxSeconds is the argument of the sandbox image's command, which gives its processes away.
const SandboxSeconds = "2147483647"

// ReferenceNetwork is the chain of reference plugins that does what a node's own network does.
func ReferenceNetwork(n *node.Node) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "%[1]s-ref", "plugins": [
 {"type": "bridge", "bridge": "%[1]sr", "isGateway": true, "ipMasq": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "%[2]s.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "%[3]s/containerd/leases"}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}`, n.Bridge, otherSubnet(n.Subnet), n.Base)
}

// DropReferenceNetwork removes what the reference plugins leave when the last pod is gone. It is for a network
// namespace of the test's own only: the table is one that others use as well.
func DropReferenceNetwork(n *node.Node) error {
	for _, args := range [][]string{{"ip", "link", "delete", n.Bridge + "r"}, {"nft", "delete", "table", "ip", "nat"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	return nil
}

// otherSubnet is a range beside the node's: the second byte moves out of the nodes' 100 to 199.
func otherSubnet(subnet string) string {
	var a, b, c int
	_, _ = fmt.Sscanf(subnet, "%d.%d.%d", &a, &b, &c) // the node has made it
	return fmt.Sprintf("%d.%d.%d", a, b-100, c)
}

// Log is what containerd has said.
func (c *Containerd) Log() string {
	data, _ := os.ReadFile(c.base + "/log")
	lines := strings.Split(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// Stop ends containerd and removes the cgroups that it leaves. Its pods are to be removed before.
func (c *Containerd) Stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	faults := []error{c.cmd.Wait(), syscall.Unmount(c.base+"/state", syscall.MNT_DETACH)}
	left, err := filepath.Glob("/sys/fs/cgroup/*" + c.CgroupParent)
	faults = append(faults, err)
	for _, dir := range append(left, "/sys/fs/cgroup"+c.CgroupParent) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}
