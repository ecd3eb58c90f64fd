package crishim

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	testimages "github.com/podwright/podwright/test/images"
)

// fixture is an instance with an image from a registry on loopback, and a network whose plugin only
// answers: what plugins do is tested elsewhere.
type fixture struct {
	*instance
	runtime.RuntimeServiceClient
	t     testing.TB
	image string
	logs  string
}

func newFixture(t testing.TB) *fixture {
	cfg := testConfig(t)
	reg, err := testimages.Serve("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reg.Close() })
	busybox, err := testimages.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.Push("busybox:1", busybox); err != nil {
		t.Fatal(err)
	}
	cfg.Image.RegistryConfigDir = t.TempDir()
	if err := reg.WriteHosts(cfg.Image.RegistryConfigDir, "example.test"); err != nil {
		t.Fatal(err)
	}
	installPlugin(t, &cfg)
	f := &fixture{t: t, logs: t.TempDir()}
	f.restart(cfg)
	pulled, err := runtime.NewImageServiceClient(f.conn).PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "example.test/busybox:1"}})
	if err != nil {
		t.Fatalf("%v\n%s", err, f.log)
	}
	f.image = pulled.GetImageRef()
	return f
}

func installPlugin(t testing.TB, cfg *Config) {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "testnet"), "./internal/podnet/testdata/plugin").CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v: %s", err, out)
	}
	if err := os.Mkdir(cfg.CNI.ConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := `{"cniVersion":"1.1.0","name":"crishim-test","plugins":[{"type":"testnet","dir":"` + dir + `","answer":{"cniVersion":"1.1.0",
"interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"192.0.2.7/24","interface":0}]}}]}`
	if err := os.WriteFile(filepath.Join(cfg.CNI.ConfDir, "10-test.conflist"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.CNI.BinDirs = []string{dir}
}

// restart ends the instance, if there is one, and starts the next.
func (f *fixture) restart(cfg Config) {
	f.t.Helper()
	if f.instance != nil {
		f.instance.end(f.t)
	}
	f.instance = start(f.t, cfg)
	f.RuntimeServiceClient = f.instance.client(f.t)
}

func (f *fixture) sandbox() string { return f.sandboxOf("web") }

func (f *fixture) sandboxOf(name string) string {
	f.t.Helper()
	resp, err := f.RunPodSandbox(f.t.Context(), &runtime.RunPodSandboxRequest{Config: &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "u-1"}, LogDirectory: f.logs, Hostname: "web-0",
	}})
	if err != nil {
		f.t.Fatalf("%v\n%s", err, f.log)
	}
	return resp.GetPodSandboxId()
}

func (f *fixture) container(sandbox, name string, command ...string) string {
	f.t.Helper()
	made, err := f.CreateContainer(f.t.Context(), &runtime.CreateContainerRequest{PodSandboxId: sandbox, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: f.image, UserSpecifiedImage: "example.test/busybox:1"},
		Command: command, LogPath: name + ".log",
	}})
	if err != nil {
		f.t.Fatalf("%v\n%s", err, f.log)
	}
	return made.GetContainerId()
}

func (f *fixture) started(id string) {
	f.t.Helper()
	if _, err := f.StartContainer(f.t.Context(), &runtime.StartContainerRequest{ContainerId: id}); err != nil {
		f.t.Fatalf("%v\n%s", err, f.log)
	}
}

func (f *fixture) status(id string) *runtime.ContainerStatus {
	f.t.Helper()
	resp, err := f.ContainerStatus(f.t.Context(), &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		f.t.Fatalf("%v\n%s", err, f.log)
	}
	return resp.GetStatus()
}

func (f *fixture) awaitEnd(id string) *runtime.ContainerStatus {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if s := f.status(id); s.GetState() == runtime.ContainerState_CONTAINER_EXITED {
			return s
		}
	}
	f.t.Fatalf("container %s does not end\n%s", id, f.log)
	return nil
}

// TestPodsForReal goes through all parts together: a pulled image, a real container, a restart in between.
func TestPodsForReal(t *testing.T) {
	f := newFixture(t)
	sandbox := f.sandbox()
	sb, err := f.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil || sb.GetStatus().GetNetwork().GetIp() != "192.0.2.7" {
		t.Errorf("got %v, %v", sb, err)
	}
	long := f.container(sandbox, "long", "/bin/sh", "-c", "hostname; trap 'exit 3' TERM; while :; do sleep 0.05; done")
	short := f.container(sandbox, "short", "/bin/sh", "-c", "sleep 1; exit 7")
	f.started(long)
	f.started(short)

	f.restart(f.cfg)
	if s := f.status(long); s.GetState() != runtime.ContainerState_CONTAINER_RUNNING || s.GetImageId() != f.image {
		t.Errorf("after a restart: %v", s)
	}
	if s := f.awaitEnd(short); s.GetExitCode() != 7 || s.GetReason() != "Error" {
		t.Errorf("ended meanwhile: %v", s)
	}
	exec, err := f.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: long, Cmd: []string{"sh", "-c", "echo out; echo err >&2; exit 5"}, Timeout: 30})
	if err != nil || string(exec.GetStdout()) != "out\n" || string(exec.GetStderr()) != "err\n" || exec.GetExitCode() != 5 {
		t.Errorf("got %v, %v", exec, err)
	}
	_, err = f.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: long, Cmd: []string{"sleep", "60"}, Timeout: 1})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("exec timeout: %v", err)
	}
	if _, err := f.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: long, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	if s := f.status(long); s.GetState() != runtime.ContainerState_CONTAINER_EXITED || s.GetExitCode() != 3 {
		t.Errorf("after the stop: %v", s)
	}
	if log, err := os.ReadFile(filepath.Join(f.logs, "long.log")); err != nil || !strings.Contains(string(log), "stdout F web-0\n") {
		t.Errorf("log %q, %v", log, err)
	}
	missing := f.container(sandbox, "missing", "/no/such/command")
	_, err = f.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: missing})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a command that does not exist: %v", err)
	}
	if s := f.status(missing); s.GetState() != runtime.ContainerState_CONTAINER_EXITED || s.GetReason() != "StartError" || s.GetExitCode() != 128 {
		t.Errorf("a command that does not exist: %v", s)
	}
	f.removeAll(sandbox)
}

// removeAll removes the sandbox with all in it, and checks what is left when the instance has ended.
func (f *fixture) removeAll(sandbox string) {
	f.t.Helper()
	if _, err := f.RemovePodSandbox(f.t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		f.t.Errorf("%v\n%s", err, f.log)
	}
	list, err := f.ListContainers(f.t.Context(), &runtime.ListContainersRequest{})
	if err != nil || len(list.GetContainers()) > 0 {
		f.t.Errorf("got %v, %v", list, err)
	}
	f.end(f.t)
	for _, dir := range []string{
		filepath.Join(f.cfg.Root, "pods"), filepath.Join(f.cfg.Root, "cni", "attached"), filepath.Join(f.cfg.Root, "cni", "results"),
		filepath.Join(f.cfg.State, "ns"), filepath.Join(f.cfg.State, "shared"), filepath.Join(f.cfg.State, "bundles"), filepath.Join(f.cfg.State, "runc"),
	} {
		if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
			f.t.Errorf("%s still holds %v", dir, left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), f.cfg.State) || strings.Contains(string(mounts), f.cfg.Root) {
		f.t.Errorf("mounts are left: %v", err)
	}
	for _, h := range []string{"", "memory", "pids", "unified"} {
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", h, f.cfg.CgroupParent)); err == nil {
			f.t.Errorf("the cgroup %s is left in %q", f.cfg.CgroupParent, h)
		}
	}
}
