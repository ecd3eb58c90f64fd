package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/podwright/podwright/test/daemon"
	"github.com/podwright/podwright/test/node"
)

const (
	// Hostname is the node's name, which ends the names of static pods.
	Hostname = "podwright"
	// HostIP is the node's address (TEST-NET-1, RFC 5737), and so that of pods on the host's network.
	HostIP = "192.0.2.1"

	port     = 10250 // on loopback, in a network namespace of its own
	hostLink = "node0"
)

// Programs are what a kubelet is started from.
type Programs struct {
	Kubelet string // the built binary
	Sample  string // the configuration file for cri-shim that is shipped, which this kubelet reads first
	More    string // what it reads last, as a configuration file without its head; may be empty
}

// Kubelet is one kubelet.
type Kubelet struct {
	Manifests string // directory of static pods
	Root      string // of the kubelet, where the volumes are

	programs Programs
	node     *node.Node
	base     string
	mounts   []string // to be unmounted
	client   *http.Client
	process  *daemon.Process
}

// New makes what a kubelet needs around it: directories, its host paths, an address, and the cgroup that it begins at. What it
// returns, also beside an error, is to be ended by Stop, before the node.
func New(n *node.Node, p Programs) (*Kubelet, error) {
	base := n.Base + "/kubelet"
	k := &Kubelet{
		Manifests: base + "/manifests", Root: "/var/lib/kubelet", programs: p, node: n, base: base,
		client: &http.Client{
			Timeout: time.Minute,
			// Its certificate is signed by itself, and anew in each directory.
			Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // loopback of a namespace of its own
		},
	}
	for _, step := range []func() error{k.files, k.hostPaths, k.address, func() error { return MakeCgroup(n.CgroupParent) }} {
		if err := step(); err != nil {
			return k, err
		}
	}
	return k, nil
}

const configHead = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func (k *Kubelet) files() error {
	for _, dir := range []string{"manifests", "config", "root", "log", "plugins"} {
		if err := os.MkdirAll(filepath.Join(k.base, dir), 0o755); err != nil {
			return err
		}
	}
	sample, err := os.ReadFile(k.programs.Sample)
	if err != nil {
		return err
	}
	for path, content := range map[string]string{
		"config/10-cri-shim.conf": string(sample),
		"config/20-test.conf":     configHead + k.config(),
		"config/30-more.conf":     configHead + k.programs.More,
		"resolv.conf":             "nameserver 192.0.2.53\nsearch podwright.test\n",
	} {
		if err := os.WriteFile(filepath.Join(k.base, path), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// config is what this machine and short tests need on top of the sample: directories and cgroups of its own, an API without
// certificates, no lowering of OOM scores, no eviction by what else is on the disk, and no long waits.
func (k *Kubelet) config() string {
	return fmt.Sprintf(`containerRuntimeEndpoint: unix://%[1]s
staticPodPath: %[2]s
fileCheckFrequency: 1s
syncFrequency: 5s
volumePluginDir: %[3]s/plugins
resolvConf: %[3]s/resolv.conf
cgroupRoot: %[4]s
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
address: 127.0.0.1
port: %[5]d
readOnlyPort: 0
healthzPort: 0
registerNode: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: 1Mi, nodefs.available: 1Mi, nodefs.inodesFree: "1", imagefs.available: 1Mi, imagefs.inodesFree: "1"}
registryPullQPS: 0
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
featureGates: {ContainerStopSignals: true}
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
containerLogMaxSize: 20Ki
containerLogMaxFiles: 3
containerLogMonitorInterval: 3s
`, k.node.Socket, k.Manifests, k.base, k.node.CgroupParent, port)
}

// Start starts the kubelet and returns when it answers. It may be started again after Kill or Terminate.
func (k *Kubelet) Start() error {
	args, err := WithTunables(k.base, k.programs.Kubelet, "--config-dir", k.base+"/config", "--root-dir", k.Root,
		"--hostname-override", Hostname, "--node-ip", HostIP, "-v", "4")
	if err != nil {
		return err
	}
	if k.process, err = daemon.Start("kubelet", k.log(), exec.Command(args[0], args[1:]...)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return k.process.Await(ctx, func(ctx context.Context) error {
		_, err := k.Get(ctx, "/healthz")
		return err
	})
}

// Kill ends the kubelet by kill -9.
func (k *Kubelet) Kill() error { return k.end(syscall.SIGKILL) }

// Terminate ends the kubelet in the orderly way.
func (k *Kubelet) Terminate() error { return k.end(syscall.SIGTERM) }

func (k *Kubelet) end(sig syscall.Signal) error {
	err := k.process.End(sig)
	k.process = nil
	return err
}

func (k *Kubelet) log() string { return k.base + "/kubelet.log" }

// Log is what the kubelet has said.
func (k *Kubelet) Log() string {
	data, _ := os.ReadFile(k.log())
	return string(data)
}

// Stop ends the kubelet and takes back what New has made. The pods are to be gone before.
func (k *Kubelet) Stop() error {
	return errors.Join(k.Terminate(), k.dropMounts(), k.dropAddress(), k.dropTables(), DropCgroups(k.node.CgroupParent))
}
