// Package node runs cri-shim with everything around it, from built binaries, in directories, on a bridge and in
// cgroups of its own, so that it can stand beside any other runtime of the host. It speaks to it as users do: by
// crictl, and by signals. The demo, the end-to-end tests and the benchmarks are made of it.
package node

import (
	"bufio"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/test/daemon"
	"github.com/podwright/podwright/test/leftovers"
)

// Programs are the built binaries that a node is made of.
type Programs struct {
	Bin      string // directory of cri-shim, cri-monitor and bridge-ipam
	Tools    string // directory of crictl and cnitool
	Registry string // test/images/registry; "": the caller serves images
}

// Node is one running cri-shim.
type Node struct {
	Base, Root, State, Socket, Logs, Hosts, NetDir string
	NRISocket, NRIPlugins                          string
	Bridge, CgroupParent, Subnet                   string

	driver   string // of cgroups
	programs Programs
	before   leftovers.State
	registry *exec.Cmd
	shim     *daemon.Process
	binDir   string // of CNI plugins
	runtime  string // OCI runtime; "" is the configured one
}

// Marks give the node's processes away.
func (n *Node) Marks() leftovers.Marks { return leftovers.Marks{n.Base, n.CgroupParent} }

// New makes the directories and the files of a node, and starts its registry. What it returns, also beside an
// error, is to be ended by Stop.
func New(p Programs) (*Node, error) {
	for _, path := range []*string{&p.Bin, &p.Tools, &p.Registry} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = abs
	}
	base, err := os.MkdirTemp("", "podwright-")
	if err != nil {
		return nil, err
	}
	// A pod's user namespace has no rights here, and must come through to its root file system.
	if err := os.Chmod(base, 0o711); err != nil {
		return nil, err
	}
	var r [4]byte
	_, _ = rand.Read(r[:]) // never fails (crypto/rand)
	n := &Node{
		Base: base, Root: base + "/root", State: base + "/state", Socket: base + "/cri.sock", Logs: base + "/logs",
		Hosts: base + "/hosts", NetDir: base + "/net.d", NRISocket: base + "/nri.sock", NRIPlugins: base + "/nri", programs: p, binDir: p.Bin,
		Bridge: fmt.Sprintf("pw%x", r), CgroupParent: "/" + filepath.Base(base), driver: cmp.Or(os.Getenv(DriverVariable), "cgroupfs"),
		Subnet: fmt.Sprintf("10.%d.%d", 100+int(r[0])%100, r[1]),
	}
	if n.systemd() {
		n.CgroupParent = strings.ReplaceAll(filepath.Base(base), "-", "_") + ".slice" // a dash would nest it
	}
	if n.before, err = leftovers.Take(n.Marks()); err != nil {
		return n, err
	}
	for _, dir := range []string{n.Logs, n.Hosts, n.NetDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return n, err
		}
	}
	if err := n.mountState(); err != nil {
		return n, err
	}
	for path, content := range map[string]string{
		base + "/config.toml": fmt.Sprintf("cgroup_driver = %q\ncgroup_parent = %q\n[nri]\nsocket_path = %q\nplugin_path = %q\nplugin_config_path = %q\n",
			n.driver, n.CgroupParent, n.NRISocket, n.NRIPlugins, n.NRIPlugins+"/conf"),
		n.NetDir + "/10.conflist":  n.conflist(),
		base + "/crictl-pull.yaml": "",
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return n, err
		}
	}
	return n, n.startRegistry()
}

// UseDisk gives the node, before its start, a disk of its own for what is below /var on most nodes: images, layers,
// records and logs. It is the given size, in bytes.
func (n *Node) UseDisk(size int64) error {
	disk := n.disk()
	if err := os.Mkdir(disk, 0o711); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("mode=0711,size=%d", size)); err != nil {
		return fmt.Errorf("mount %s: %w", disk, err)
	}
	n.Root, n.Logs = disk+"/root", disk+"/logs"
	return os.Mkdir(n.Logs, 0o755)
}

// UseBlockDisk is UseDisk with a file system that can be damaged: ext4 on a loop device.
func (n *Node) UseBlockDisk(size int64) error {
	if err := os.Mkdir(n.disk(), 0o711); err != nil {
		return err
	}
	f, err := os.Create(n.image())
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close(), run("mkfs.ext4", "-q", n.image()), n.MountDisk()); err != nil {
		return err
	}
	n.Root, n.Logs = n.disk()+"/root", n.disk()+"/logs"
	return os.Mkdir(n.Logs, 0o755)
}

func (n *Node) image() string { return n.Base + "/disk.ext4" }

// MountDisk mounts it again after UnmountDisk.
func (n *Node) MountDisk() error {
	return run("mount", "-o", "loop,errors=remount-ro", n.image(), n.disk())
}

// UnmountDisk unmounts it; nobody may use it.
func (n *Node) UnmountDisk() error { return syscall.Unmount(n.disk(), 0) }

// BreakDisk has the kernel find the file system damaged: from then on it is read-only (ext4(5), errors). What was written
// until now stays.
func (n *Node) BreakDisk() error {
	var st syscall.Stat_t
	if err := errors.Join(run("sync", "-f", n.disk()), syscall.Stat(n.disk(), &st)); err != nil {
		return err
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return err
	}
	return os.WriteFile("/sys/fs/ext4/"+filepath.Base(device)+"/trigger_fs_error", []byte("1"), 0)
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

func (n *Node) disk() string { return n.Base + "/disk" }

// mountState makes the state directory what /run is where an initramfs has mounted it.
func (n *Node) mountState() error {
	if err := os.Mkdir(n.State, 0o711); err != nil {
		return err
	}
	return syscall.Mount("tmpfs", n.State, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "mode=0711")
}

func unmount(dir string) error {
	err := syscall.Unmount(dir, 0)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
		return nil // half a node
	}
	return err
}

func (n *Node) conflist() string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "%[1]s", "plugins": [%s]}`, n.Bridge, n.plugin())
}

func (n *Node) plugin() string {
	return fmt.Sprintf(`{"type": "bridge-ipam", "bridge": "%s", "isGateway": true, "ipMasq": true, "hairpinMode": true,
 "capabilities": {"portMappings": true, "io.podwright.netns-destroyed": true},
 "ipam": {"ranges": [[{"subnet": "%s.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "%s/leases"}}`, n.Bridge, n.Subnet, n.Base)
}

func (n *Node) startRegistry() error {
	if n.programs.Registry == "" {
		return nil
	}
	n.registry = exec.Command(n.programs.Registry, "--hosts-dir", n.Hosts)
	n.registry.SysProcAttr = apart()
	out, err := n.registry.StdoutPipe()
	if err != nil {
		return err
	}
	if err := n.registry.Start(); err != nil {
		n.registry = nil
		return fmt.Errorf("start the registry: %w", err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "ready ") {
		return fmt.Errorf("start the registry: it said %q: %w", line, err)
	}
	return nil
}

// apart keeps a terminal's Ctrl-C from a program: only the one that started it decides when it ends.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// UsePlugins makes the node look for CNI plugins in another directory.
func (n *Node) UsePlugins(dir string) { n.binDir = dir }

// UseRuntime makes the node run containers by another OCI runtime.
func (n *Node) UseRuntime(path string) { n.runtime = path }

// AddHandler gives the node, before its start, one more OCI runtime that pods may ask for by name.
func (n *Node) AddHandler(name, path string) error {
	return n.Configure(fmt.Sprintf("[runtimes.%q]\npath = %q\n", name, path))
}

// Configure adds tables to the configuration file, before the start.
func (n *Node) Configure(toml string) error {
	f, err := os.OpenFile(n.Base+"/config.toml", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "\n%s", toml)
	return errors.Join(err, f.Close())
}

// patience is how long Stop waits for what comes at once on most machines: an emulated one is ten times slower.
const patience = 30 * time.Second

// Stop ends everything and returns what is left on the host. It may be called on half a node.
func (n *Node) Stop() (leftovers.State, error) {
	var faults []error
	note := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	if n.shim != nil && !n.shim.Alive() {
		note(n.Terminate()) // says how it ended
	}
	if pods, _ := filepath.Glob(n.Root + "/pods/*"); n.shim == nil && len(pods) > 0 {
		note(n.Start()) // it has left pods behind that only a cri-shim can remove
	}
	if n.shim != nil {
		_, err := n.Crictl("rmp", "--all", "--force")
		note(err)
		note(n.Terminate())
	}
	note(n.stopMonitor())
	note(n.collectNetwork())
	if n.registry != nil {
		note(n.registry.Process.Signal(syscall.SIGTERM))
		note(n.registry.Wait())
	}
	note(errors.Join(unmount(n.State), unmount(n.disk()), n.stopSlice()))
	left, err := leftovers.Since(n.before, n.Marks(), patience)
	note(err)
	if err == nil && len(left["mounts"]) == 0 { // never through a mount
		note(os.RemoveAll(n.Base))
	}
	return left, errors.Join(faults...)
}

// collectNetwork tells the plugin that no attachment is valid any more, upon which it removes its bridge.
func (n *Node) collectNetwork() error {
	config := strings.Replace(n.plugin(), "{", fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "%s", "cni.dev/valid-attachments": [], `, n.Bridge), 1)
	cmd := exec.Command(filepath.Join(n.programs.Bin, "bridge-ipam"))
	cmd.Env = []string{"CNI_COMMAND=GC", "CNI_PATH=" + n.programs.Bin}
	cmd.Stdin = strings.NewReader(config)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("CNI GC: %w: %s", err, out)
	}
	return nil
}
