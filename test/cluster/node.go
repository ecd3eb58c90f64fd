package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/podwright/podwright/test/daemon"
	"github.com/podwright/podwright/test/kubelet"
)

// Node is one node. Its paths are those of any host, seen from inside: Command.
type Node struct {
	Name, IP string
	Runtime  Runtime
	PodCIDR  string // from the cluster, once it is ready
	Cgroup   string // above those of its pods; its runtime is in a sibling, RuntimeCgroup

	cluster *Cluster
	base    string
	index   int
	holder  *exec.Cmd // keeps the namespaces
	release func() error
	runtime *daemon.Process
	kubelet *daemon.Process
	proxy   *daemon.Process
}

// RuntimeCgroup is where the daemons of the node's runtime are, and what they start until it has a cgroup of its own.
func (n *Node) RuntimeCgroup() string { return n.cluster.cgroup + "/runtime-" + n.Name }

// AddNode adds a node and returns once the cluster holds it for ready and other nodes can reach its pods.
func (c *Cluster) AddNode(ctx context.Context, r Runtime) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	i := len(c.Nodes) + 1
	n := &Node{Name: fmt.Sprintf("node%d", i), IP: fmt.Sprintf("192.0.2.%d", 10+i), Runtime: r, cluster: c, index: i}
	n.base, n.Cgroup = c.Dir+"/"+n.Name, c.cgroup+"/pods-"+n.Name
	c.Nodes = append(c.Nodes, n) // from here on Down ends it
	for _, step := range []func(context.Context) error{n.files, n.cgroups, n.namespaces, n.link, n.StartRuntime, n.StartKubelet, n.startProxy, n.ready, c.routes} {
		if err := step(ctx); err != nil {
			return n, fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return n, nil
}

func (n *Node) files(context.Context) error {
	ca, user := n.cluster.ca, "system:node:"+n.Name
	if err := errors.Join(ca.issue(user, user, []string{"system:nodes"}, net.ParseIP(n.IP)), ca.kubeconfig(user, server)); err != nil {
		return err
	}
	for _, dir := range []string{"config", "etc", "etc-work", "lib", "log", "plugins"} {
		if err := os.MkdirAll(filepath.Join(n.base, dir), 0o755); err != nil {
			return err
		}
	}
	sample, err := os.ReadFile(n.cluster.programs.Conf + "/kubelet/10-cri-shim.conf")
	if err != nil {
		return err
	}
	files := map[string]string{
		"config/10-cri-shim.conf": string(sample), "config/20-cluster.conf": n.kubeletConfig(),
		"proxy.conf": n.proxyConfig(), "resolv.conf": "nameserver 192.0.2.53\n",
	}
	for name, content := range n.runtimeFiles() {
		files[name] = content
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(n.base, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// kubeletConfig is what follows the sample. Beside what the cluster is, it has what a machine needs that is shared by several nodes
// and has a cgroup v1: cgroups below its own, no lowering of OOM scores, no eviction by what else is on the disk.
func (n *Node) kubeletConfig() string {
	ca, user := n.cluster.ca, "system:node:"+n.Name
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[1]s
volumePluginDir: %[2]s/plugins
resolvConf: %[2]s/resolv.conf
cgroupRoot: %[3]s
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
address: %[4]s
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
tlsCertFile: %[5]s
tlsPrivateKeyFile: %[6]s
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[7]s}}
authorization: {mode: Webhook}
clusterDomain: %[8]s
clusterDNS: [%[9]s]
maxPods: 200
syncFrequency: 10s
evictionHard: {memory.available: 1Mi, nodefs.available: 1Mi, nodefs.inodesFree: "1", imagefs.available: 1Mi, imagefs.inodesFree: "1"}
registryPullQPS: 0
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`, n.socket(), n.base, n.Cgroup, n.IP, ca.file(user+".crt"), ca.file(user+".key"), ca.file("ca.crt"), Domain, DNS)
}

// proxyConfig leaves what is not of a network namespace as it is: the sizes of the connection table.
func (n *Node) proxyConfig() string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
bindAddress: 0.0.0.0
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
hostnameOverride: %s
clusterCIDR: %s
clientConnection: {kubeconfig: %q}
conntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
nftables: {syncPeriod: 30s, minSyncPeriod: 200ms}
`, n.Name, Pods, n.cluster.ca.file("system:kube-proxy.conf"))
}

func (n *Node) cgroups(context.Context) error {
	return errors.Join(kubelet.MakeCgroup(n.Cgroup), kubelet.MakeCgroup(n.RuntimeCgroup()))
}

// namespaces starts the process that the node's network and mount namespaces live by. It ends with its standard input, and so with
// the process that started it.
func (n *Node) namespaces(context.Context) error {
	script := `set -e
base=$1
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$base/lib" /var/lib
mount --bind "$base/log" /var/log
mount -t overlay -o lowerdir=/etc,upperdir="$base/etc",workdir="$base/etc-work" overlay /etc
mkdir -p /etc/cni/net.d /var/lib/kubelet
mount --bind /var/lib/kubelet /var/lib/kubelet
mount --make-shared /var/lib/kubelet # volumes are passed on to containers that run already from a shared mount only
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
echo ready
read -r _ || true`
	n.holder = exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script, "sh", n.base)
	n.holder.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var errs strings.Builder
	n.holder.Stderr = &errs
	in, err := n.holder.StdinPipe()
	if err != nil {
		return err
	}
	out, err := n.holder.StdoutPipe()
	if err != nil {
		return err
	}
	if err := n.holder.Start(); err != nil {
		return fmt.Errorf("start the namespaces: %w", err)
	}
	n.release = func() error { return errors.Join(in.Close(), n.holder.Wait()) }
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		return errors.Join(fmt.Errorf("start the namespaces: it said %q: %w", line, err), n.dropNamespaces(), errors.New(errs.String()))
	}
	return nil
}

func (n *Node) dropNamespaces() error {
	if n.release == nil {
		return nil
	}
	release := n.release
	n.release = nil
	return release()
}

// link joins the node to the bridge.
func (n *Node) link(context.Context) error {
	port, pid := fmt.Sprintf("node%d", n.index), fmt.Sprint(n.holder.Process.Pid)
	for _, args := range [][]string{
		{"ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", pid},
		{"ip", "link", "set", port, "master", bridge, "up"},
	} {
		if err := run(args...); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"ip", "address", "add", n.IP + "/24", "dev", "eth0"}, {"ip", "link", "set", "eth0", "up"}, {"ip", "route", "add", "default", "via", Address},
	} {
		if err := n.Run(args...); err != nil {
			return err
		}
	}
	return nil
}

// Args are those by which a program runs on the node.
func (n *Node) Args(args ...string) []string {
	ns := fmt.Sprintf("/proc/%d/ns/", n.holder.Process.Pid)
	return append([]string{"nsenter", "--net=" + ns + "net", "--mount=" + ns + "mnt", "--"}, args...)
}

// Command is a program that runs on the node.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	args = n.Args(args...)
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

// Run runs a program on the node to its end.
func (n *Node) Run(args ...string) error { return run(n.Args(args...)...) }

// inRuntimeCgroup is the command of a daemon that begins in the node's RuntimeCgroup: in the hierarchy that counts processor time.
func (n *Node) inRuntimeCgroup(args ...string) ([]string, error) {
	dir, err := accounting(n.RuntimeCgroup())
	return append([]string{"sh", "-c", `echo $$ >"$0/cgroup.procs"; exec "$@"`, dir}, args...), err
}

// accounting is the directory of a cgroup in the hierarchy that counts processor time.
func accounting(cgroup string) (string, error) {
	tops, err := kubelet.Hierarchies()
	if err != nil {
		return "", err
	}
	for _, top := range tops {
		if len(tops) == 1 || strings.Contains(filepath.Base(top), "cpuacct") {
			return top + cgroup, nil
		}
	}
	return "", errors.New("no cgroup hierarchy counts processor time")
}

// Log is the file in which a daemon of the node has said what it did: kubelet, kube-proxy, cri-shim or containerd.
func (n *Node) Log(name string) string { return filepath.Join(n.base, name+".log") }

// StartKubelet starts the node's kubelet.
func (n *Node) StartKubelet(context.Context) error {
	args, err := kubelet.WithTunables(n.base, filepath.Join(n.cluster.programs.Kubernetes, "kubelet"), "--config-dir", n.base+"/config",
		"--kubeconfig", n.cluster.ca.file("system:node:"+n.Name+".conf"), "--hostname-override", n.Name, "--node-ip", n.IP, "-v", "2")
	if err != nil {
		return err
	}
	args = n.Args(args...)
	n.kubelet, err = daemon.Start("kubelet", n.Log("kubelet"), exec.Command(args[0], args[1:]...))
	return err
}

func (n *Node) startProxy(context.Context) (err error) {
	args := n.Args(filepath.Join(n.cluster.programs.Kubernetes, "kube-proxy"), "--config", n.base+"/proxy.conf")
	n.proxy, err = daemon.Start("kube-proxy", n.Log("kube-proxy"), exec.Command(args[0], args[1:]...))
	return err
}

// ready waits until the cluster holds the node for ready, which takes a network made from the range that it got.
func (n *Node) ready(ctx context.Context) error {
	return n.kubelet.Await(ctx, func(ctx context.Context) error {
		var node struct {
			Spec   struct{ PodCIDR string }
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
		if err := n.cluster.API.Get(ctx, "/api/v1/nodes/"+n.Name, &node); err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" && node.Spec.PodCIDR != "" {
				n.PodCIDR = node.Spec.PodCIDR
				return nil
			}
		}
		return fmt.Errorf("not ready: %+v", node.Status.Conditions)
	})
}

// routes tells every node, and the control plane, where the pods of the other nodes are.
func (c *Cluster) routes(context.Context) error {
	for _, to := range c.Nodes {
		route := []string{"ip", "route", "replace", to.PodCIDR, "via", to.IP}
		if err := run(route...); err != nil {
			return err
		}
		for _, on := range c.Nodes {
			if on == to {
				continue
			}
			if err := on.Run(route...); err != nil {
				return err
			}
		}
	}
	return nil
}

// down ends the node: first what would start pods again, then its pods, then what runs them.
func (n *Node) down() error {
	if n.holder == nil {
		return nil
	}
	faults := []error{end(n.proxy, syscall.SIGTERM), end(n.kubelet, syscall.SIGTERM), n.stopRuntime()}
	if n.release != nil {
		faults = append(faults, n.dropNamespaces())
	}
	return errors.Join(faults...)
}
