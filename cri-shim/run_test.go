package crishim

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// testConfig is a runtime of its own, with a real monitor, under a directory of the test.
func testConfig(t testing.TB) Config {
	t.Helper()
	nettest.RequireRoot(t)
	dir := t.TempDir()
	cfg := Default()
	cfg.Root, cfg.State = filepath.Join(dir, "root"), filepath.Join(dir, "state")
	cfg.CNI.ConfDir, cfg.CgroupParent = filepath.Join(dir, "cni"), "/cri-shim-test-"+strconv.Itoa(os.Getpid())
	cfg.CgroupDriver = "cgroupfs"
	cfg.NRI.SocketPath, cfg.NRI.PluginPath = filepath.Join(dir, "nri.sock"), filepath.Join(dir, "nri")
	cfg.Monitor.Path = filepath.Join(dir, "cri-monitor")
	if out, err := exec.Command("go", "build", "-o", cfg.Monitor.Path, "../cmd/cri-monitor").CombinedOutput(); err != nil {
		t.Fatalf("build cri-monitor: %v: %s", err, out)
	}
	return cfg
}

// instance is a Run in this process.
type instance struct {
	cfg   Config
	log   *lockedBuffer
	stop  context.CancelFunc
	ended chan error
	conn  *grpc.ClientConn
}

func start(t testing.TB, cfg Config) *instance {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	i := &instance{cfg: cfg, log: &lockedBuffer{}, stop: stop, ended: make(chan error, 1)}
	t.Cleanup(i.killMonitors)
	t.Cleanup(stop)
	ready := make(chan struct{})
	logger := slog.New(slog.NewTextHandler(i.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() {
		i.ended <- Run(ctx, cfg, Options{Logger: logger, Version: "0.1.0", Ready: func() { close(ready) }})
	}()
	select {
	case <-ready:
	case err := <-i.ended:
		t.Fatalf("Run: %v\n%s", err, i.log)
	case <-time.After(time.Minute):
		t.Fatalf("not ready\n%s", i.log)
	}
	return i
}

func (i *instance) end(t testing.TB) {
	t.Helper()
	i.stop()
	if err := <-i.ended; err != nil {
		t.Errorf("Run: %v\n%s", err, i.log)
	}
}

func (i *instance) monitors() []int {
	var pids []int
	for _, m := range regexp.MustCompile(`started cri-monitor" pid=(\d+)`).FindAllStringSubmatch(i.log.String(), -1) {
		pid, _ := strconv.Atoi(m[1])
		pids = append(pids, pid)
	}
	return pids
}

func (i *instance) killMonitors() {
	for _, pid := range i.monitors() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (i *instance) client(t testing.TB) runtime.RuntimeServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+i.cfg.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	i.conn = conn
	return runtime.NewRuntimeServiceClient(conn)
}

func TestRun(t *testing.T) {
	cfg := testConfig(t)
	i := start(t, cfg)
	c := i.client(t)
	if v, err := c.Version(t.Context(), &runtime.VersionRequest{}); err != nil || v.GetRuntimeVersion() != "0.1.0" {
		t.Fatalf("got %v, %v", v, err)
	}
	s, err := c.Status(t.Context(), &runtime.StatusRequest{Verbose: true})
	if err != nil || !strings.Contains(s.GetInfo()["config"], `"stateDir":"`+cfg.State+`"`) {
		t.Errorf("got %v, %v", s, err)
	}
	if n := s.GetStatus().GetConditions()[1]; n.GetStatus() || !strings.Contains(n.GetMessage(), cfg.CNI.ConfDir) {
		t.Errorf("the network cannot be ready: %v", n)
	}

	err = Run(t.Context(), cfg, Options{Logger: slog.New(slog.DiscardHandler), Version: "0.1.0"})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "another cri-shim") {
		t.Errorf("a second instance: %v", err)
	}
	other := cfg
	other.Root, other.State = cfg.Root+"2", cfg.State+"2"
	start(t, other).end(t)
	if _, err := c.Version(t.Context(), &runtime.VersionRequest{}); err != nil {
		t.Errorf("the first instance: %v", err)
	}

	i.end(t)
	if _, err := os.Lstat(cfg.Socket()); err == nil {
		t.Error("the socket stays")
	}
	monitors := i.monitors()
	if len(monitors) != 1 || syscall.Kill(monitors[0], 0) != nil {
		t.Errorf("the monitor must live on: %v", monitors)
	}
	again := start(t, cfg)
	if started := again.monitors(); len(started) != 0 {
		t.Errorf("a second monitor was started: %v", started)
	}
	again.end(t)
}

// A pod on the host's network needs no plugin, but everything else: namespaces, records, recovery.
func TestSandboxOutlivesTheRuntime(t *testing.T) {
	cfg := testConfig(t)
	i := start(t, cfg)
	c := i.client(t)
	r := &runtime.RunPodSandboxRequest{Config: &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u-1"},
		Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_CONTAINER},
		}},
	}}
	made, err := c.RunPodSandbox(t.Context(), r)
	if err != nil {
		t.Fatalf("%v\n%s", err, i.log)
	}
	if again, err := c.RunPodSandbox(t.Context(), r); err != nil || again.GetPodSandboxId() != made.GetPodSandboxId() {
		t.Errorf("a retry: %v, %v", again, err)
	}
	i.end(t)

	i = start(t, cfg)
	c = i.client(t)
	got, err := c.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: made.GetPodSandboxId()})
	if err != nil || got.GetStatus().GetState() != runtime.PodSandboxState_SANDBOX_READY {
		t.Errorf("after a restart: %v, %v", got, err)
	}
	for range 2 {
		if _, err := c.StopPodSandbox(t.Context(), &runtime.StopPodSandboxRequest{PodSandboxId: made.GetPodSandboxId()}); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if _, err := c.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: made.GetPodSandboxId()}); err != nil {
			t.Error(err)
		}
	}
	i.end(t)
	for _, dir := range []string{filepath.Join(cfg.Root, "pods"), filepath.Join(cfg.State, "ns"), filepath.Join(cfg.State, "shared")} {
		if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
			t.Errorf("%s still holds %v", dir, left)
		}
	}
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	cfg := testConfig(t)
	for name, change := range map[string]func(*Config){
		"no-such-runc": func(c *Config) { c.Runtime = "no-such-runc" },
		"relative":     func(c *Config) { c.Root = "relative" },
		"not a socket": func(c *Config) { c.Listen = c.Monitor.Path },
		"cri-monitor":  func(c *Config) { c.Monitor.Path = "/does/not/exist" },
	} {
		broken := cfg
		change(&broken)
		err := Run(t.Context(), broken, Options{Logger: slog.New(slog.DiscardHandler), Version: "0.1.0"})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
