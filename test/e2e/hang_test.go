package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestHangingTeardown: containers that cannot be killed, because a mount is stuck or their cgroup is frozen, hold up
// who ends them and nobody else. Every look at 500 other containers, a new pod, and a start after kill -9 come to
// their end while each teardown still hangs. Once they can go on they do, and nothing is left.
func TestHangingTeardown(t *testing.T) {
	n := newNode(t)
	conn := n.dial()
	c := &crowd{tester: n, cri: runtime.NewRuntimeServiceClient(conn), images: runtime.NewImageServiceClient(conn)}
	c.gather(25, 20)
	stuck := n.mountStuck("stuck")
	holds := c.holdAll(stuck)
	before := c.askAll()

	for _, h := range holds {
		h.begin(t)
	}
	n.eventually(func() bool { return c.hang(holds) == "" })
	during := c.askAll()
	p := c.sandbox("meanwhile", n.CgroupParent)
	c.container(p, "main", nil, "sleep", "1000")
	if _, err := c.cri.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: p}); err != nil {
		t.Errorf("removal of another pod: %v", err)
	}
	for _, h := range holds {
		if _, err := c.cri.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: h.container}); err != nil {
			t.Errorf("%s: status of what hangs: %v", h.what, err)
		}
	}
	if fault := c.hang(holds); fault != "" {
		t.Fatal(fault)
	}
	t.Logf("500 containers, as usual:\n%swhile %d teardowns hang:\n%s", before, len(holds), during)

	n.must(n.Kill())
	for _, h := range holds {
		if err := <-h.done; err == nil {
			t.Errorf("%s: success", h.what)
		}
	}
	n.must(n.Start())
	for _, h := range holds {
		h.begin(t)
	}
	c.askAll()
	if fault := c.hang(holds); fault != "" {
		t.Fatalf("after kill -9: %s", fault)
	}

	stuck.release()
	for _, h := range holds {
		h.thaw()
		if err := <-h.done; err != nil {
			t.Errorf("%s, once it can go on: %v", h.what, err)
		}
	}
	c.removeAll() // crictl would do it one by one
	for _, h := range holds {
		if h.parent != "" {
			n.removeCgroup(h.parent)
		}
	}
}

// hold is a container that cannot be killed, and a call that ends it.
type hold struct {
	what               string
	sandbox, container string
	parent             string // cgroup of this pod alone; "": none
	cgroup             string
	thaw               func()
	call               func(context.Context) error
	done               chan error
}

func (h *hold) begin(t *testing.T) {
	h.done = make(chan error, 1)
	go func(done chan<- error) { done <- h.call(t.Context()) }(h.done) // its end is waited for, or that of the test
}

// holdAll makes a container for each call that ends one.
func (c *crowd) holdAll(stuck *stuckMount) []*hold {
	c.t.Helper()
	mounts := []*runtime.Mount{{HostPath: stuck.Dir, ContainerPath: "/stuck"}}
	one := func(what, parent string, mounts []*runtime.Mount, cmd ...string) *hold {
		h := &hold{what: what, thaw: func() {}}
		h.sandbox = c.sandbox("hold"+strconv.Itoa(len(c.sandboxes)), parent)
		h.container = c.container(h.sandbox, "main", mounts, cmd...)
		path := c.ContainerCgroup(h.container)
		if parent != c.CgroupParent {
			path = parent + "/" + h.container
		}
		h.cgroup = cgroupDir(c.t, path)
		return h
	}
	onMount := func(what string) *hold { return one(what, c.CgroupParent, mounts, "cat", "/stuck/"+what) }
	all := []*hold{onMount("StopContainer"), onMount("RemoveContainer"), onMount("StopPodSandbox"), onMount("RemovePodSandbox")}
	c.eventually(func() bool { return stuck.stuck() == len(all) })
	const freezer = "/sys/fs/cgroup/freezer"
	if _, err := os.Stat(freezer + "/cgroup.procs"); err == nil { // SIGKILL reaches what a cgroup of v2 has frozen
		parent := c.CgroupParent + "/pod-frozen"
		h := one("RemovePodSandbox", parent, nil, "sleep", "1000")
		h.parent = parent
		state := filepath.Dir(h.cgroup) + "/freezer.state"
		h.thaw = func() { _ = os.WriteFile(state, []byte("THAWED"), 0) } // a test that failed may have removed it
		c.must(os.WriteFile(state, []byte("FROZEN"), 0))
		c.t.Cleanup(h.thaw)
		all = append(all, h)
	}
	for _, h := range all {
		h.call = func(ctx context.Context) (err error) {
			switch h.what {
			case "StopContainer":
				_, err = c.cri.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: h.container})
			case "RemoveContainer":
				_, err = c.cri.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: h.container})
			case "StopPodSandbox":
				_, err = c.cri.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: h.sandbox})
			case "RemovePodSandbox":
				_, err = c.cri.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: h.sandbox})
			}
			return err
		}
	}
	return all
}

// hang says which call does not hang: it has ended, or no process of its container was killed and lives.
func (c *crowd) hang(holds []*hold) string {
	for _, h := range holds {
		if len(h.done) > 0 {
			return h.what + " has ended"
		}
		pids, err := os.ReadFile(h.cgroup + "/cgroup.procs")
		if err != nil || len(pids) == 0 {
			return fmt.Sprintf("%s: no process is left: %v", h.what, err)
		}
		for _, pid := range strings.Fields(string(pids)) {
			if !killed(pid) {
				return h.what + ": process " + pid + " was not killed"
			}
		}
	}
	return ""
}

// killed says whether SIGKILL waits for a process (proc_pid_status(5)).
func killed(pid string) bool {
	status, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 2 && (f[0] == "SigPnd:" || f[0] == "ShdPnd:") {
			if mask, err := strconv.ParseUint(f[1], 16, 64); err == nil && mask&(1<<8) != 0 {
				return true
			}
		}
	}
	return false
}

// cgroupDir is the directory of a cgroup that lists its processes.
func cgroupDir(t *testing.T, path string) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/freezer", "/sys/fs/cgroup"} {
		if _, err := os.Stat(root + path); err == nil {
			return root + path
		}
	}
	t.Fatalf("no cgroup %s", path)
	return ""
}

// crowd is many containers, and all that can be asked about them.
type crowd struct {
	*tester
	cri    runtime.RuntimeServiceClient
	images runtime.ImageServiceClient

	mu                    sync.Mutex
	sandboxes, containers []string // guarded by mu
}

func (c *crowd) gather(pods, each int) {
	c.t.Helper()
	begin := time.Now()
	var g errgroup.Group
	g.SetLimit(4)
	for i := range pods {
		g.Go(func() error {
			p := c.sandbox(fmt.Sprintf("crowd%d", i), c.CgroupParent)
			for k := range each {
				c.container(p, fmt.Sprintf("c%d", k), nil, "sleep", "1000")
			}
			return nil
		})
	}
	_ = g.Wait()
	if len(c.containers) != pods*each {
		c.t.FailNow()
	}
	c.t.Logf("%d containers started in %s", len(c.containers), time.Since(begin).Round(time.Millisecond))
}

// sandbox and container return "" beside an error of the test, which may be called from any goroutine.
func (c *crowd) sandbox(name, parent string) string {
	cfg := podConfig(name)
	cfg.Linux = &runtime.LinuxPodSandboxConfig{CgroupParent: parent, SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: ownPID}}
	r, err := c.cri.RunPodSandbox(c.t.Context(), &runtime.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		c.t.Error(err)
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sandboxes = append(c.sandboxes, r.GetPodSandboxId())
	return r.GetPodSandboxId()
}

var ownPID = &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}

func (c *crowd) container(sandbox, name string, mounts []*runtime.Mount, cmd ...string) string {
	cfg := containerConfig(name, image, cmd...)
	cfg.Mounts = mounts
	cfg.Linux = &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: ownPID}}
	r, err := c.cri.CreateContainer(c.t.Context(), &runtime.CreateContainerRequest{PodSandboxId: sandbox, Config: cfg, SandboxConfig: podConfig("any")})
	if err == nil {
		_, err = c.cri.StartContainer(c.t.Context(), &runtime.StartContainerRequest{ContainerId: r.GetContainerId()})
	}
	if err != nil {
		c.t.Error(err)
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.containers = append(c.containers, r.GetContainerId())
	return r.GetContainerId()
}

func (c *crowd) removeAll() {
	c.t.Helper()
	var g errgroup.Group
	g.SetLimit(4)
	for _, id := range c.sandboxes {
		g.Go(func() error {
			_, err := c.cri.RemovePodSandbox(c.t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: id})
			return err
		})
	}
	c.must(g.Wait())
}

// askAll makes each call about all, or about each, and returns a table of how long they took.
func (c *crowd) askAll() string {
	c.t.Helper()
	lists := map[string]func(context.Context) (int, error){
		"ListPodSandbox": func(ctx context.Context) (int, error) {
			r, err := c.cri.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
			return len(r.GetItems()), err
		},
		"ListContainers": func(ctx context.Context) (int, error) {
			r, err := c.cri.ListContainers(ctx, &runtime.ListContainersRequest{})
			return len(r.GetContainers()), err
		},
		"ListContainerStats": func(ctx context.Context) (int, error) {
			r, err := c.cri.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{})
			return len(r.GetStats()), err
		},
		"ListPodSandboxStats": func(ctx context.Context) (int, error) {
			r, err := c.cri.ListPodSandboxStats(ctx, &runtime.ListPodSandboxStatsRequest{})
			return len(r.GetStats()), err
		},
		"ListPodSandboxMetrics": func(ctx context.Context) (int, error) {
			r, err := c.cri.ListPodSandboxMetrics(ctx, &runtime.ListPodSandboxMetricsRequest{})
			return len(r.GetPodMetrics()), err
		},
		"ListImages": func(ctx context.Context) (int, error) {
			r, err := c.images.ListImages(ctx, &runtime.ListImagesRequest{})
			return 25 * len(r.GetImages()), err
		},
		"Status": func(ctx context.Context) (int, error) {
			r, err := c.cri.Status(ctx, &runtime.StatusRequest{})
			return 25 * len(r.GetStatus().GetConditions()), err
		},
	}
	var took []string
	for what, f := range lists {
		took = append(took, c.times(what, make([]string, 5), func(ctx context.Context, _ string) error {
			got, err := f(ctx)
			if err == nil && got < 25 {
				err = fmt.Errorf("only %d", got)
			}
			return err
		}))
	}
	took = append(took,
		c.times("ContainerStatus", c.containers[:500], func(ctx context.Context, id string) error {
			_, err := c.cri.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id, Verbose: true})
			return err
		}),
		c.times("ContainerStats", c.containers[:500], func(ctx context.Context, id string) error {
			_, err := c.cri.ContainerStats(ctx, &runtime.ContainerStatsRequest{ContainerId: id})
			return err
		}),
		c.times("PodSandboxStatus", c.sandboxes[:25], func(ctx context.Context, id string) error {
			_, err := c.cri.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
			return err
		}),
		c.times("PodSandboxStats", c.sandboxes[:25], func(ctx context.Context, id string) error {
			_, err := c.cri.PodSandboxStats(ctx, &runtime.PodSandboxStatsRequest{PodSandboxId: id})
			return err
		}))
	slices.Sort(took)
	return strings.Join(took, "")
}

// times makes one call for each id. The deadline is no bar: what waits for a teardown here waits until it is cut off.
func (c *crowd) times(what string, ids []string, f func(context.Context, string) error) string {
	c.t.Helper()
	var all []time.Duration
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
		begin := time.Now()
		err := f(ctx, id)
		all = append(all, time.Since(begin))
		cancel()
		if err != nil {
			c.t.Errorf("%s %s: %v", what, id, err)
			break
		}
	}
	slices.Sort(all)
	return fmt.Sprintf("%22s: median %9s, longest %9s of %d\n", what,
		all[len(all)/2].Round(time.Microsecond), all[len(all)-1].Round(time.Microsecond), len(all))
}
