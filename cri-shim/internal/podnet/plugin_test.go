package podnet

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// buildPlugin builds the plugin for tests once. It is a program of its own, because the test binary with
// its race detector takes long to start.
var buildPlugin = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "podnet-test-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "plugin")
	out, err := exec.Command("go", "build", "-o", file, "./testdata/plugin").CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	return file, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if file, err := buildPlugin(); err == nil {
		_ = os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(code)
}

// call is what the plugin was given.
type call struct {
	Command, ID, NetNS, IfName, Args string
	Conf                             map[string]any
}

// world is a Network over directories of its own, with the plugin installed.
type world struct {
	*Network
	dir string
	log *strings.Builder
}

const answer = `{"cniVersion":"1.1.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/ns"}],
"ips":[{"address":"192.168.0.1/24","interface":0},{"address":"fd00::5/64","interface":1},{"address":"10.1.0.5/24","interface":1}]}`

func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	dir := t.TempDir()
	self, err := buildPlugin()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "conf"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"testnet", "second"} {
		if err := os.Symlink(self, filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	log := &strings.Builder{}
	o := Options{
		ConfDir: filepath.Join(dir, "conf"), BinDirs: []string{filepath.Join(dir, "bin")}, CacheDir: filepath.Join(dir, "cni"),
		UsersDir: filepath.Join(dir, "users"), Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
	for _, f := range change {
		f(&o)
	}
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	n.firstWait = time.Minute // this machine may be busy
	w := &world{Network: n, dir: dir, log: log}
	w.configure(t, "10-net.conflist", "net1")
	return w
}

// list is a configuration of one network with the plugin in it, which declares every capability.
func (w *world) list(name string, extra string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":%q,"plugins":[{"type":"testnet","dir":%q,"answer":%s,%s"capabilities":
{"portMappings":true,"dns":true,"bandwidth":true,"io.kubernetes.cri.pod-annotations":true,"io.podwright.netns-destroyed":true}}]}`, name, w.dir, answer, extra)
}

func (w *world) configure(t *testing.T, file, name string) {
	t.Helper()
	w.write(t, filepath.Join("conf", file), w.list(name, ""))
}

func (w *world) write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, file), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(filepath.Join(w.dir, file)); err != nil {
		t.Fatal(err)
	}
}

// calls returns what the plugin was asked since the last time.
func (w *world) calls(t *testing.T) []call {
	t.Helper()
	file := filepath.Join(w.dir, "calls")
	b, _ := os.ReadFile(file)
	_ = os.Remove(file)
	var out []call
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if line == "" {
			continue
		}
		var c call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func (w *world) commands(t *testing.T) string {
	t.Helper()
	var out []string
	for _, c := range w.calls(t) {
		out = append(out, fmt.Sprintf("%s %s %v", c.Command, c.ID, c.Conf["name"]))
	}
	return strings.Join(out, "; ")
}

func (w *world) attachment(id string) pod.Attachment {
	return pod.Attachment{ID: pod.ID(id), Namespace: "ns", Name: "web", UID: "u1", NetNS: w.dir}
}
