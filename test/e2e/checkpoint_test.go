package e2e

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criuWorks asks CRIU itself whether it can work on this kernel.
func criuWorks() error {
	out, err := exec.Command("criu", "check").CombinedOutput()
	if err != nil {
		return fmt.Errorf("criu check: %w: %s", err, out)
	}
	return nil
}

// checkpointable is a pod whose containers are made by requests that RestorePod takes again.
type checkpointable struct {
	*tester
	cri        runtime.RuntimeServiceClient
	sandbox    *runtime.PodSandboxConfig
	containers []*runtime.ContainerConfig
}

func newCheckpointable(n *tester, name string, pid runtime.NamespaceMode) *checkpointable {
	sandbox := podConfig(name)
	sandbox.LogDirectory, sandbox.Hostname = n.Logs+"/"+name, name
	sandbox.Linux = &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtime.NamespaceOption{Pid: pid},
	}}
	return &checkpointable{tester: n, cri: runtime.NewRuntimeServiceClient(n.dial()), sandbox: sandbox}
}

func (c *checkpointable) add(name, script string, tty bool) {
	cfg := containerConfig(name, image, "sh", "-c", script)
	cfg.LogPath, cfg.Tty = name+".log", tty
	cfg.Linux = &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{
		NamespaceOptions: c.sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions(),
	}}
	c.containers = append(c.containers, cfg)
}

func (c *checkpointable) context() context.Context {
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	c.t.Cleanup(cancel)
	return ctx
}

// start runs the pod and returns the ids.
func (c *checkpointable) start() (sandbox string, ids []string) {
	c.t.Helper()
	s, err := c.cri.RunPodSandbox(c.context(), &runtime.RunPodSandboxRequest{Config: c.sandbox})
	c.must(err)
	for _, cfg := range c.containers {
		made, err := c.cri.CreateContainer(c.context(), &runtime.CreateContainerRequest{PodSandboxId: s.GetPodSandboxId(), SandboxConfig: c.sandbox, Config: cfg})
		c.must(err)
		_, err = c.cri.StartContainer(c.context(), &runtime.StartContainerRequest{ContainerId: made.GetContainerId()})
		c.must(err)
		ids = append(ids, made.GetContainerId())
	}
	return s.GetPodSandboxId(), ids
}

func (c *checkpointable) remove(sandbox string) {
	c.t.Helper()
	c.crictl("stopp", sandbox)
	c.crictl("rmp", sandbox)
}

// count is where the counter of a container stands.
func (c *checkpointable) count(id string) int {
	c.t.Helper()
	n, err := strconv.Atoi(c.exec(id, "cat", "/count"))
	c.must(err)
	return n
}

// counts waits until a container counts on.
func (c *checkpointable) counts(id string) {
	c.t.Helper()
	was := c.count(id)
	c.eventually(func() bool { return c.count(id) > was })
}

const counter = `rm -f /etc/passwd; mkdir -p /made/here; echo kept > /made/here/file; echo shared > /dev/shm/word
i=0; while :; do i=$((i+1)); echo $i > /new; mv /new /count; echo line $i; sleep 1; done`

// members are the names in an archive.
func members(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

// TestCheckpoints: a pod is written while it runs, removed, and goes on from there as another one.
func TestCheckpoints(t *testing.T) {
	requireRoot(t)
	if err := criuWorks(); err != nil {
		t.Skipf("this host makes no checkpoints (make test-vm runs a kernel that does): %v", err)
	}
	n := newNode(t)
	p := newCheckpointable(n, "counting", runtime.NamespaceMode_CONTAINER)
	p.add("counter", counter, false)
	p.add("terminal", "i=0; while :; do i=$((i+1)); echo $i > /new; mv /new /count; echo tick $i; sleep 1; done", true)
	sandbox, ids := p.start()
	p.counts(ids[0])
	p.counts(ids[1])

	archive := n.Base + "/counter.tar"
	n.crictl("checkpoint", "--export="+archive, ids[0])
	p.counts(ids[0])
	if info, err := os.Stat(archive); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("archive: %v, %v, want mode 0600", info, err)
	}
	for _, want := range []string{"config.dump", "spec.dump", "rootfs-diff.tar", "dump.log", "stats-dump", "checkpoint/inventory.img"} {
		if have := members(t, archive); !slices.Contains(have, want) {
			t.Errorf("archive has no %s: %v", want, have)
		}
	}
	if out, err := n.Crictl("checkpoint", "--export="+archive, ids[0]); err == nil {
		t.Errorf("an archive was replaced: %s", out)
	}

	dir := n.Base + "/checkpoint"
	n.must(os.Mkdir(dir, 0o700))
	_, err := p.cri.CheckpointPod(p.context(), &runtime.CheckpointPodRequest{PodSandboxId: sandbox, OutputPath: dir, ContainerIds: ids})
	n.must(err)
	counted := []int{p.count(ids[0]), p.count(ids[1])} // at the checkpoint or later
	p.counts(ids[0])
	p.counts(ids[1])
	p.remove(sandbox)

	p.sandbox.Metadata.Uid, p.sandbox.LogDirectory = "uid-restored", n.Logs+"/restored"
	wrong := slices.Clone(p.containers)
	wrong[0] = containerConfig("counter", image, "sh", "-c", "true")
	n.refuse([]refused{
		{"another command", p.restore(dir, wrong), codes.InvalidArgument, "args"},
		{"a container less", p.restore(dir, wrong[1:]), codes.InvalidArgument, "exactly the containers"},
		{"no checkpoint", p.restore(n.Base, p.containers), codes.InvalidArgument, "pod.options"},
	})
	if got := n.crictl("pods", "-q"); got != "" {
		t.Errorf("a refused restore left pods: %q", got)
	}
	resp, err := p.cri.RestorePod(p.context(), p.request(dir, p.containers))
	n.must(err)
	again, err := p.cri.RestorePod(p.context(), p.request(dir, p.containers))
	n.must(err)
	if again.GetPodSandboxId() != resp.GetPodSandboxId() {
		t.Errorf("a repeated restore made another pod: %s and %s", resp, again)
	}
	for i, r := range resp.GetRestoredContainers() {
		id := r.GetContainerId()
		if s := n.container(id).Status.State; s != "CONTAINER_CREATED" || r.GetName() != p.containers[i].GetMetadata().GetName() {
			t.Errorf("restored: %s is %s before its start", r, s)
		}
		n.crictl("start", id)
		p.counts(id)
		// It goes on: ten seconds after the checkpoint would be fifty, and from anew it would take long.
		if now := p.count(id); now < counted[i]/2 {
			t.Errorf("%s counts from %d: at its checkpoint it was near %d", r.GetName(), now, counted[i])
		}
	}
	id := resp.GetRestoredContainers()[0].GetContainerId()
	if got := n.exec(id, "cat", "/made/here/file", "/dev/shm/word"); got != "kept\nshared" {
		t.Errorf("files of the restored container: %q", got)
	}
	if out, err := n.Crictl("exec", "--sync", id, "ls", "/etc/passwd"); err == nil {
		t.Errorf("a deleted file is back: %s", out)
	}
	for i, name := range []string{"counter", "terminal"} {
		first := firstLine(t, filepath.Join(n.Logs, "restored", name+".log"))
		if !strings.Contains(first, " stdout F ") || strings.HasSuffix(first, " 1") {
			t.Errorf("log of %s does not go on, counted %d: %q", name, counted[i], first)
		}
	}
	if cgroup := n.exec(id, "cat", "/proc/self/cgroup"); strings.Contains(cgroup, ids[0]) {
		t.Errorf("the restored container is in the old one's cgroup: %s", cgroup)
	}
	// What was restored can be checkpointed like any other.
	n.crictl("checkpoint", "--export="+n.Base+"/again.tar", id)
	p.counts(id)
	p.remove(resp.GetPodSandboxId())
}

// TestCheckpointOfSharedPIDs: processes keep their numbers, in a PID namespace that is there before them.
func TestCheckpointOfSharedPIDs(t *testing.T) {
	requireRoot(t)
	if err := criuWorks(); err != nil {
		t.Skipf("this host makes no checkpoints (make test-vm runs a kernel that does): %v", err)
	}
	n := newNode(t)
	p := newCheckpointable(n, "shared", runtime.NamespaceMode_POD)
	p.add("counter", "echo $$ > /pid; "+counter, false)
	sandbox, ids := p.start()
	p.counts(ids[0])
	pid := n.exec(ids[0], "cat", "/pid")
	dir := n.Base + "/checkpoint"
	n.must(os.Mkdir(dir, 0o700))
	_, err := p.cri.CheckpointPod(p.context(), &runtime.CheckpointPodRequest{PodSandboxId: sandbox, OutputPath: dir, ContainerIds: ids})
	n.must(err)
	p.remove(sandbox)
	resp, err := p.cri.RestorePod(p.context(), p.request(dir, p.containers))
	n.must(err)
	id := resp.GetRestoredContainers()[0].GetContainerId()
	n.crictl("start", id)
	p.counts(id)
	if line := n.exec(id, "cat", "/proc/"+pid+"/cmdline"); pid == "1" || !strings.Contains(line, "count") {
		t.Errorf("process %s is %q", pid, line)
	}
	p.remove(resp.GetPodSandboxId())
}

func (c *checkpointable) request(dir string, containers []*runtime.ContainerConfig) *runtime.RestorePodRequest {
	return &runtime.RestorePodRequest{CheckpointPath: dir, Config: c.sandbox, ContainerConfigs: containers}
}

func (c *checkpointable) restore(dir string, containers []*runtime.ContainerConfig) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := c.cri.RestorePod(ctx, c.request(dir, containers))
		return err
	}
}

func firstLine(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// TestCheckpointsRefused: where CRIU does not work the answer says so, and nothing was touched.
func TestCheckpointsRefused(t *testing.T) {
	requireRoot(t)
	if criuWorks() == nil {
		t.Skip("this host makes checkpoints: TestCheckpoints")
	}
	n := newNode(t)
	p := newCheckpointable(n, "counting", runtime.NamespaceMode_CONTAINER)
	p.add("counter", counter, false)
	sandbox, ids := p.start()
	dir := n.Base + "/checkpoint"
	n.must(os.Mkdir(dir, 0o700))
	n.refuse([]refused{
		{"a container", func(ctx context.Context) error {
			_, err := p.cri.CheckpointContainer(ctx, &runtime.CheckpointContainerRequest{ContainerId: ids[0], Location: dir + "/a.tar"})
			return err
		}, codes.FailedPrecondition, "CRIU"},
		{"a pod", func(ctx context.Context) error {
			_, err := p.cri.CheckpointPod(ctx, &runtime.CheckpointPodRequest{PodSandboxId: sandbox, ContainerIds: ids, OutputPath: dir})
			return err
		}, codes.FailedPrecondition, "CRIU"},
		{"a restore", p.restore(dir, p.containers), codes.FailedPrecondition, "CRIU"},
	})
	if out, err := n.Crictl("checkpoint", "--export="+dir+"/a.tar", ids[0]); err == nil || !strings.Contains(err.Error()+out, "CRIU") {
		t.Errorf("crictl checkpoint: %s, %v", out, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("a refused checkpoint left %v, %v", left, err)
	}
	p.counts(ids[0])
	p.remove(sandbox)
}
