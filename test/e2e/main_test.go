// Package e2e tests podwright as its users meet it: by built binaries, crictl, cnitool, raw CRI requests and
// signals. It imports nothing of podwright but other test programs.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/test/node"
)

// programs are what all tests run; make build-e2e leaves them.
var programs node.Programs

const image = "podwright.test/busybox:latest"

func TestMain(m *testing.M) {
	root, err := filepath.Abs("../..")
	if err == nil {
		programs = node.Programs{Bin: root + "/bin", Tools: root + "/.cache/tools", Registry: root + "/.cache/registry"}
		cmd := exec.Command("make", "--no-print-directory", "-C", root, "build", "tools", "newest-runc")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		err = cmd.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build what is tested:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// requireRoot skips for a user, and fails in CI, where a skipped test would be a gap that nobody sees.
func requireRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal("needs root, and CI must not skip it")
	default:
		t.Skipf("needs root")
	}
}

// tester is a node in a test.
type tester struct {
	*node.Node
	t *testing.T
}

// newNode starts a node with its image pulled. At the end of the test it is stopped, and nothing may be left.
func newNode(t *testing.T) *tester {
	t.Helper()
	n := prepareNode(t)
	n.must(n.Start())
	n.crictl("pull", image)
	return n
}

// prepareNode is newNode without the start.
func prepareNode(t *testing.T) *tester {
	t.Helper()
	requireRoot(t)
	n, err := node.New(programs)
	if n == nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(n.State + "/monitor/monitor.log")
			t.Logf("cri-shim:\n%s\ncri-monitor:\n%s", tail(n.ShimLog()), tail(string(log)))
		}
		left, err := n.Stop()
		if err != nil {
			t.Error(err)
		}
		if !left.Empty() {
			t.Errorf("%s\n%s", left, left.Details())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return &tester{n, t}
}

func tail(s string) string {
	const most = 8000
	return s[max(0, len(s)-most):]
}

func (n *tester) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// configure adds tables to the configuration, before the start.
func (n *tester) configure(toml string) {
	n.t.Helper()
	n.must(n.Configure(toml))
}

// crictl must succeed.
func (n *tester) crictl(args ...string) string {
	n.t.Helper()
	out, err := n.Crictl(args...)
	n.must(err)
	return out
}

func (n *tester) pod(name string) string {
	n.t.Helper()
	id, err := n.RunPod(name)
	n.must(err)
	return id
}

// hostPod starts a pod with the network of the host.
func (n *tester) hostPod(name string) string {
	n.t.Helper()
	file, err := n.File("pod-"+name+".json", strings.Replace(n.PodJSON(name, false), `"network": 0`, `"network": 2`, 1))
	n.must(err)
	return n.crictl("runp", file)
}

func (n *tester) run(podID, podName, name, script, extra string) string {
	n.t.Helper()
	id, err := n.RunContainer(podID, podName, name, image, script, extra)
	n.must(err)
	return id
}

func (n *tester) container(id string) node.Inspect {
	n.t.Helper()
	c, err := n.Container(id)
	n.must(err)
	return c
}

// exec runs a command, which must succeed, and returns its output without white space around.
func (n *tester) exec(container string, cmd ...string) string {
	n.t.Helper()
	return strings.TrimSpace(n.crictl(append([]string{"exec", "--sync", container}, cmd...)...))
}

// patience is how long tests wait for what comes at once on most machines: an emulated one is ten times slower.
const patience = time.Minute

// eventually waits until a condition holds.
func (n *tester) eventually(holds func() bool) {
	n.t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatal("it did not come to be")
		}
	}
}
