package cluster

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/podwright/podwright/test/daemon"
	"github.com/podwright/podwright/test/images"
	"github.com/podwright/podwright/test/kubelet"
)

const (
	// Domain ends the names of services.
	Domain = "cluster.local"
	// Pods are the addresses that nodes get their ranges from, Services those of services.
	Pods, Services = "10.244.0.0/16", "10.96.0.0/16"
	// DNS is where pods look names up, if somebody serves there.
	DNS = "10.96.0.10"
	// Address is that of the control plane (TEST-NET-1, RFC 5737). Nodes follow from .11 on.
	Address = "192.0.2.1"

	bridge = "cluster0"
	server = "https://" + Address + ":6443"
	admin  = "admin"
)

// Programs are the directories of the built programs.
type Programs struct {
	Bin        string // cri-shim, cri-monitor, bridge-ipam
	Tools      string // crictl, runc, and the reference plugins for containerd
	Kubernetes string // the control plane, kubelet, kube-proxy, kubectl, etcd, agnhost
	Containerd string // of a node that runs it; else empty
	Names      string // the test server of names
	Conf       string // samples: what kubelets read first, and the template of a node's network
	LogLevel   string // of cri-shim; empty: "info"
}

// Cluster is one running cluster.
type Cluster struct {
	Dir   string
	API   *API
	Nodes []*Node

	cgroup   string // above all of its cgroups
	programs Programs
	ca       *authority
	registry *images.Registry
	daemons  []*daemon.Process // in the order of their start
	link     bool              // the bridge is there
}

// New makes a cluster without nodes in a directory that is not there yet, and returns when its API answers. What it returns, also
// beside an error, is to be ended by Down.
func New(ctx context.Context, dir string, p Programs) (*Cluster, error) {
	for _, path := range []*string{&dir, &p.Bin, &p.Tools, &p.Kubernetes, &p.Containerd, &p.Names, &p.Conf} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = abs
	}
	c := &Cluster{Dir: dir, cgroup: "/" + filepath.Base(dir), programs: p}
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the directory of a new cluster: %w", err)
	}
	for _, step := range []func(context.Context) error{c.network, c.certificates, c.images, c.control} {
		if err := step(ctx); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Kubeconfig is the file by which kubectl is the cluster's administrator, within the network namespace of the cluster.
func (c *Cluster) Kubeconfig() string { return c.ca.file(admin + ".conf") }

// network makes the bridge that nodes are joined by, which is the control plane's interface as well.
func (c *Cluster) network(context.Context) error {
	if err := run("ip", "link", "add", bridge, "type", "bridge"); err != nil {
		return err
	}
	c.link = true
	return errors.Join(run("ip", "address", "add", Address+"/24", "dev", bridge), run("ip", "link", "set", bridge, "up"))
}

func (c *Cluster) certificates(context.Context) (err error) {
	if c.ca, err = newAuthority(c.Dir + "/pki"); err != nil {
		return err
	}
	if err := errors.Join(
		c.ca.serviceAccounts(),
		c.ca.issue("apiserver", "kube-apiserver", nil, net.ParseIP(Address), net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)),
		c.ca.issue("kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}),
	); err != nil {
		return err
	}
	for user, groups := range map[string][]string{
		admin: {"system:masters"}, "system:kube-controller-manager": nil, "system:kube-scheduler": nil, "system:kube-proxy": nil,
	} {
		if err := errors.Join(c.ca.issue(user, user, groups), c.ca.kubeconfig(user, server)); err != nil {
			return err
		}
	}
	c.API, err = c.ca.api(admin, server)
	return err
}

// Images are what pods of the cluster can run.
const (
	Busybox = "podwright.test/busybox:latest"
	Agnhost = "podwright.test/agnhost:latest"
	Names   = "podwright.test/names:latest"
	Pause   = "podwright.test/pause:latest" // for runtimes that need it
)

func (c *Cluster) images(context.Context) (err error) {
	if c.registry, err = images.Serve(Address+":0", nil); err != nil {
		return err
	}
	if err := c.registry.WriteHosts(c.Dir+"/hosts", "podwright.test"); err != nil {
		return err
	}
	return c.pushImages()
}

// control starts etcd and the control plane.
func (c *Cluster) control(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := c.start("etcd", "--name=podwright", "--data-dir="+c.Dir+"/etcd", "--unsafe-no-fsync", // a cluster that ends with its machine
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=podwright=http://127.0.0.1:2380", "--log-level=warn"); err != nil {
		return err
	}
	api, err := c.start("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--advertise-address="+Address, "--cert-dir="+c.Dir+"/apiserver",
		"--tls-cert-file="+c.ca.file("apiserver.crt"), "--tls-private-key-file="+c.ca.file("apiserver.key"), "--client-ca-file="+c.ca.file("ca.crt"),
		"--kubelet-client-certificate="+c.ca.file("kubelet-client.crt"), "--kubelet-client-key="+c.ca.file("kubelet-client.key"),
		"--kubelet-certificate-authority="+c.ca.file("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc."+Domain, "--service-account-key-file="+c.ca.file("sa.pub"),
		"--service-account-signing-key-file="+c.ca.file("sa.key"), "--service-cluster-ip-range="+Services,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction")
	if err != nil {
		return err
	}
	if err := api.Await(ctx, func(ctx context.Context) error {
		in, err := c.API.Open(ctx, "GET", "/readyz", nil)
		if err == nil {
			err = in.Close()
		}
		return err
	}); err != nil {
		return err
	}
	manager, scheduler := c.ca.file("system:kube-controller-manager.conf"), c.ca.file("system:kube-scheduler.conf")
	_, err = c.start("kube-controller-manager", "--kubeconfig="+manager, "--authentication-kubeconfig="+manager, "--authorization-kubeconfig="+manager,
		"--bind-address=127.0.0.1", "--cert-dir="+c.Dir+"/manager", "--leader-elect=false", "--allocate-node-cidrs", "--cluster-cidr="+Pods,
		"--service-cluster-ip-range="+Services, "--root-ca-file="+c.ca.file("ca.crt"), "--service-account-private-key-file="+c.ca.file("sa.key"),
		"--use-service-account-credentials")
	if err != nil {
		return err
	}
	_, err = c.start("kube-scheduler", "--kubeconfig="+scheduler, "--authentication-kubeconfig="+scheduler, "--authorization-kubeconfig="+scheduler,
		"--bind-address=127.0.0.1", "--cert-dir="+c.Dir+"/scheduler", "--leader-elect=false")
	return err
}

func (c *Cluster) start(name string, args ...string) (*daemon.Process, error) {
	p, err := daemon.Start(name, c.Log(name), exec.Command(filepath.Join(c.programs.Kubernetes, name), args...))
	if err == nil {
		c.daemons = append(c.daemons, p)
	}
	return p, err
}

// end ends a daemon, whatever it makes of the signal: some say that they failed.
func end(p *daemon.Process, sig syscall.Signal) error {
	alive := p.Alive()
	err := p.End(sig)
	var exit *exec.ExitError
	if alive && errors.As(err, &exit) {
		return nil
	}
	return err
}

// run runs a program to its end.
func run(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Log is the file in which a daemon of the control plane has said what it did.
func (c *Cluster) Log(name string) string { return filepath.Join(c.Dir, name+".log") }

// Node is a node by its name.
func (c *Cluster) Node(name string) *Node {
	i := slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return c.Nodes[i]
}

// KubectlCommand is a kubectl of the administrator.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.programs.Kubernetes, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "KUBECACHEDIR="+c.Dir+"/kubectl")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Kubectl runs kubectl with an input, which may be empty, and returns its output. The error has what else it said.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := c.KubectlCommand(ctx, args...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), err
}

// Down ends the cluster, the nodes first, and removes all that it has made. Pods that are still there are removed by their runtime.
func (c *Cluster) Down() error {
	var faults []error
	for _, n := range slices.Backward(c.Nodes) {
		faults = append(faults, n.down())
	}
	for _, p := range slices.Backward(c.daemons) {
		faults = append(faults, end(p, syscall.SIGTERM))
	}
	if c.registry != nil {
		faults = append(faults, c.registry.Close())
	}
	if c.link {
		faults = append(faults, run("ip", "link", "delete", bridge))
	}
	faults = append(faults, kubelet.DropCgroups(c.cgroup))
	if err := errors.Join(faults...); err != nil {
		return err // its logs tell more
	}
	return os.RemoveAll(c.Dir)
}

// Remove removes the remains of a cluster whose process was killed: all processes in its cgroup, the cgroup, and its directory.
func Remove(dir string) error {
	cgroup := "/" + filepath.Base(dir)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		pids, err := members(cgroup)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
		}
		if len(pids) == 0 {
			err = kubelet.DropCgroups(cgroup) // busy while somebody has yet to be reaped
			if err == nil {
				return os.RemoveAll(dir)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end processes %v of %s: %w", pids, cgroup, cmp.Or(err, context.DeadlineExceeded))
		}
	}
}

// members are the processes below a cgroup.
func members(cgroup string) ([]int, error) {
	tops, err := kubelet.Hierarchies()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, top := range tops {
		err = errors.Join(err, filepath.WalkDir(top+cgroup, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.Name() != "cgroup.procs" {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return nil //nolint:nilerr // removed meanwhile
			}
			defer f.Close()
			return scanPIDs(f, &pids)
		}))
	}
	slices.Sort(pids)
	return slices.Compact(pids), err
}

func scanPIDs(in io.Reader, pids *[]int) error {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var pid int
		if _, err := fmt.Sscan(lines.Text(), &pid); err != nil {
			return err
		}
		*pids = append(*pids, pid)
	}
	return nil
}
