package stats

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// records are the Source of a test.
type records struct {
	mu         sync.Mutex
	sandboxes  []pod.Sandbox
	containers []pod.Container
}

func (r *records) Sandboxes() []pod.Sandbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sandboxes
}

func (r *records) Containers() []pod.Container {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.containers
}

func hostNetwork() pod.Namespaces { return pod.Namespaces{Network: pod.ModeNode} }

// newCollector measures the fixtures: sandbox s with a cgroup of its own, /pod, and container c in it.
func newCollector(t *testing.T, fixture string, of func(string) reader) (*Collector, *records, string) {
	t.Helper()
	dir := unpack(t, fixture)
	src := &records{
		sandboxes:  []pod.Sandbox{{ID: "s", State: pod.Ready, Config: pod.SandboxConfig{CgroupParent: "/pod/ctr", Namespaces: hostNetwork()}}},
		containers: []pod.Container{{ID: "c", SandboxID: "s", State: pod.Running, CgroupPath: "/pod/ctr"}},
	}
	c, err := New(Options{
		Source: src, Layout: paths.Layout{Root: t.TempDir(), State: t.TempDir()}, Mounts: of(dir).mounts, DefaultParent: "/all",
		Interval: time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, src, dir
}

func TestSandboxWithItsOwnCgroupAndWithout(t *testing.T) {
	c, src, _ := newCollector(t, "v2.txtar", v2)
	own, err := c.Sandbox(src.sandboxes[0])
	if err != nil || own.Cgroup != "/pod/ctr" || own.Processes != 12 || own.CPU.Total != 123456000 || own.Network != nil {
		t.Errorf("own: %+v, %v", own, err)
	}
	// Another pod with the same parent: the parent tells of neither.
	src.sandboxes = append(src.sandboxes, pod.Sandbox{ID: "s2", State: pod.Ready, Config: src.sandboxes[0].Config})
	src.containers = append(src.containers, pod.Container{ID: "c2", SandboxID: "s", State: pod.Running, CgroupPath: "/pod/ctr"},
		pod.Container{ID: "gone", SandboxID: "s", State: pod.Running, CgroupPath: "/pod/gone"},
		pod.Container{ID: "ended", SandboxID: "s", State: pod.Exited, CgroupPath: "/pod/ctr"})
	sum, err := c.Sandbox(src.sandboxes[0])
	if err != nil || sum.Cgroup != "" || sum.Processes != 24 || sum.CPU.Total != 2*123456000 || sum.Memory.WorkingSet != 14000 || sum.Memory.Limit != None {
		t.Errorf("sum: %+v, %v", sum, err)
	}
	idle, err := c.Sandbox(src.sandboxes[1])
	if err != nil || idle.At.IsZero() || idle.CPU.Total != 0 {
		t.Errorf("one where nothing runs: %+v, %v", idle, err)
	}
}

func TestInitCgroup(t *testing.T) {
	for want, o := range map[string]Options{
		"/all/s":                              {DefaultParent: "/all"},
		"/a.slice/a-b.slice/cri-shim-s.scope": {DefaultParent: "a-b.slice", Systemd: true},
	} {
		c := &Collector{Options: o}
		if got := c.initCgroup(pod.Sandbox{ID: "s"}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestContainerThatIsGone(t *testing.T) {
	c, _, _ := newCollector(t, "v1.txtar", v1)
	for _, path := range []string{"/pod/gone", "a.slice:cri-shim:gone"} {
		if _, err := c.Container(pod.Container{ID: "x", CgroupPath: path}); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := c.Details(pod.Container{ID: "x", CgroupPath: path}); err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestRate(t *testing.T) {
	c, _, _ := newCollector(t, "v1.txtar", v1)
	begin := time.Now()
	at := func(s float64, cpu uint64) sample {
		return sample{begin.Add(time.Duration(s * float64(time.Second))), cpu}
	}
	want := func(when string, got *uint64, want uint64, known bool) {
		t.Helper()
		if (got != nil) != known || known && *got != want {
			t.Errorf("%s: got %v", when, got)
		}
	}
	want("the first look", c.rate("x", at(0, 1000)), 0, false)
	want("too soon", c.rate("x", at(0.5, 2000)), 0, false)
	want("two seconds later", c.rate("x", at(2, 5000)), 2000, true)
	c.note("x", at(10, 10000))
	want("from the younger sample", c.rate("x", at(12, 10400)), 200, true)
	want("from the older one", c.rate("x", at(10.5, 22000)), 2000, true)
	want("a counter that went back", c.rate("x", at(12, 5)), 0, false)
}

// TestBackground: layers and rates appear by themselves, at once for who asks, and are forgotten with their
// container. When Run has returned nothing is at work.
func TestBackground(t *testing.T) {
	c, src, dir := newCollector(t, "v2.txtar", v2)
	upper := c.Layout.Upper("s", "c")
	write(t, filepath.Join(upper, "file"), 50_000)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	await(t, "the layer", func() bool {
		u, err := c.Container(src.containers[0])
		return err == nil && u.Layer != nil && u.Layer.Bytes >= 50_000 && u.Layer.Inodes == 2
	})
	src.mu.Lock()
	src.containers = append(src.containers, pod.Container{ID: "new", SandboxID: "s", State: pod.Running, CgroupPath: "/pod/ctr"})
	src.mu.Unlock()
	write(t, filepath.Join(c.Layout.Upper("s", "new"), "file"), 10)
	asked := time.Now()
	await(t, "the layer of a new container", func() bool { return c.Layer(src.Containers()[1]) != nil })
	if passed := time.Since(asked); passed > c.Interval {
		t.Logf("a new layer took %s", passed)
	}
	if err := os.WriteFile(filepath.Join(dir, "pod/ctr/cpu.stat"), []byte("usage_usec 999123456\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "a rate", func() bool {
		u, err := c.Container(src.Containers()[0])
		return err == nil && u.NanoCores != nil
	})
	src.mu.Lock()
	src.containers = nil
	src.mu.Unlock()
	await(t, "forgetting", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.layers) == 0 && c.samples["c"].newer.at.IsZero()
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func await(t *testing.T, what string, right func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !right(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A layer that cannot be measured is not looked at again for each question.
func TestLayerThatCannotBeMeasured(t *testing.T) {
	c, src, _ := newCollector(t, "v2.txtar", v2)
	var log strings.Builder
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	write(t, c.Layout.Upper("s", "c"), 5) // a file
	c.measureAll(t.Context(), true)
	c.measureAll(t.Context(), true)
	if n := strings.Count(log.String(), "measure a writable layer"); n != 1 || c.Layer(src.containers[0]) != nil || len(c.wake) != 0 {
		t.Errorf("%d looks: %s", n, log.String())
	}
}

func TestNewRefusesHalf(t *testing.T) {
	if _, err := New(Options{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}
