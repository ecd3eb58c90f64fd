// Package interop runs bridge-ipam under a runtime that is not ours, an unmodified containerd, and beside the firewall rules that
// others make. Everything is in network and mount namespaces of the test's own.
package interop

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/test/criclient"
	"github.com/podwright/podwright/test/isolate"
	"github.com/podwright/podwright/test/node"
	"github.com/podwright/podwright/test/peer"
)

const image = "podwright.test/busybox:latest"

var root string

func TestMain(m *testing.M) {
	isolate.Main(m, func() (err error) {
		root, err = filepath.Abs("../..")
		return err
	})
}

// world is a containerd whose pods get their network from bridge-ipam, and a host on the LAN outside.
type world struct {
	*criclient.Client
	t    *testing.T
	node *node.Node
	lan  string // pid of a process in the LAN host's network namespace
}

const (
	nodeOnLAN = "192.0.2.1" // TEST-NET-1, RFC 5737
	hostOnLAN = "192.0.2.2"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	cache := root + "/.cache"
	n, err := node.New(node.Programs{Bin: root + "/bin", Tools: cache + "/tools", Registry: cache + "/registry"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := n.Stop()
		if err != nil || !left.Empty() {
			t.Errorf("%v: %s\n%s", err, left, left.Details())
		}
	})
	w := &world{t: t, node: n, lan: holdNetNS(t)}
	w.joinLAN()
	plugins := pluginDir(t, root)
	c, err := peer.Start(n, peer.Programs{Dir: cache + "/containerd", Plugins: plugins}, w.conflist())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Log())
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	if w.Client, err = criclient.Dial(c.Socket, c.CgroupParent); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	if err := w.Pull(t.Context(), image, peer.SandboxImage); err != nil {
		t.Fatal(err)
	}
	return w
}

// conflist is what a user of bridge, host-local, portmap and bandwidth has after the move: one plugin.
func (w *world) conflist() string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "%[1]s", "plugins": [{"type": "bridge-ipam", "bridge": "%[1]s",
 "isGateway": true, "ipMasq": true, "hairpinMode": true, "capabilities": {"portMappings": true, "bandwidth": true},
 "ipam": {"ranges": [[{"subnet": "%[2]s.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "%[3]s/leases"}}]}`,
		w.node.Bridge, w.node.Subnet, w.node.Base)
}

// pluginDir has the plugins that containerd needs and no others: bridge-ipam, and loopback for lo.
func pluginDir(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	for _, path := range []string{root + "/bin/bridge-ipam", root + "/.cache/tools/loopback"} {
		if err := os.Symlink(path, filepath.Join(dir, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// holdNetNS starts a process in a network namespace of its own and returns its pid.
func holdNetNS(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat")
	in, err := cmd.StdinPipe() // its end is the process's
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(cmd.Process.Pid)
}

func (w *world) joinLAN() {
	w.t.Helper()
	w.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", w.lan)
	w.run("ip", "address", "add", nodeOnLAN+"/24", "dev", "lan0")
	w.run("ip", "link", "set", "lan0", "up")
	w.t.Cleanup(func() { w.run("ip", "link", "delete", "lan0") })
	w.run("ip", "route", "add", "default", "via", hostOnLAN)
	w.onLAN("ip", "address", "add", hostOnLAN+"/24", "dev", "eth0")
	w.onLAN("ip", "link", "set", "eth0", "up")
}

// in is the same world in a part of its test.
func (w *world) in(t *testing.T) *world {
	part := *w
	part.t = t
	return &part
}

// run runs a program on the node, which must succeed.
func (w *world) run(args ...string) string {
	w.t.Helper()
	out, err := command(context.Background(), args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// onLAN runs a program on the host beside the node.
func (w *world) onLAN(args ...string) string {
	w.t.Helper()
	return w.run(append([]string{"nsenter", "--net", "-t", w.lan, "--"}, args...)...)
}

// start runs a pod that is removed at the end of the test.
func (w *world) start(s criclient.Spec) (criclient.Pod, string) {
	w.t.Helper()
	s.Image = image
	p, err := w.Start(w.t.Context(), s)
	if p.Sandbox != "" {
		w.t.Cleanup(func() {
			if err := w.Remove(context.Background(), p); err != nil {
				w.t.Error(err)
			}
		})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	ip, err := w.IP(w.t.Context(), p)
	if err != nil || !strings.HasPrefix(ip, w.node.Subnet+".") {
		w.t.Fatalf("address %q, %v", ip, err)
	}
	return p, ip
}

// web is a pod that answers with its name on port 80, published as port on the node.
func (w *world) web(name string, port int32) (criclient.Pod, string) {
	w.t.Helper()
	return w.start(criclient.Spec{
		Name: name, Command: []string{"sh", "-c", "mkdir /www; hostname >/www/index.html; exec httpd -f -h /www"},
		Ports: []*runtime.PortMapping{{Protocol: runtime.Protocol_TCP, ContainerPort: 80, HostPort: port}},
	})
}

// command runs a program on the node and returns what it wrote.
func command(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%v: %w: %s", args, err, out)
	}
	return string(out), err
}
