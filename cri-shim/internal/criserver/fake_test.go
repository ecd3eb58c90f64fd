package criserver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// fakePods remembers what it was asked and answers from maps.
type fakePods struct {
	mu         sync.Mutex
	sandboxes  []pod.Sandbox
	containers []pod.Container
	ran        []pod.SandboxConfig
	created    []pod.ContainerConfig
	calls      []string
	fail       error // of every operation
	exec       pod.ExecResult
	panics     bool
	block      chan struct{} // operations wait for it or for their context
}

func (p *fakePods) do(ctx context.Context, call string) error {
	p.mu.Lock()
	p.calls = append(p.calls, call)
	fail, block, panics := p.fail, p.block, p.panics
	p.mu.Unlock()
	if panics {
		panic("on purpose")
	}
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", call, ctx.Err())
		}
	}
	return fail
}

func (p *fakePods) CheckpointContainer(ctx context.Context, id, location string) error {
	return p.do(ctx, "checkpoint "+id+" "+location)
}

func (p *fakePods) CheckpointPod(ctx context.Context, id string, containers []pod.ID, dir string) error {
	return p.do(ctx, fmt.Sprint("checkpointp ", id, " ", containers, " ", dir))
}

func (p *fakePods) RestorePod(ctx context.Context, dir string, cfg pod.SandboxConfig, containers []pod.ContainerConfig) (pod.ID, []pod.Restored, error) {
	return testID, []pod.Restored{{Name: containers[0].Name, ID: "one"}}, p.do(ctx, "restore "+dir+" "+cfg.Name)
}

func (p *fakePods) called() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := strings.Join(p.calls, "; ")
	p.calls = nil
	return out
}

func (p *fakePods) RunSandbox(ctx context.Context, c pod.SandboxConfig) (pod.ID, error) {
	err := p.do(ctx, "run "+c.Name)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ran = append(p.ran, c)
	return testID, err
}

func (p *fakePods) StopSandbox(ctx context.Context, id string) error { return p.do(ctx, "stopp "+id) }
func (p *fakePods) RemoveSandbox(ctx context.Context, id string) error {
	return p.do(ctx, "rmp "+id)
}

func (p *fakePods) Sandbox(id string) (pod.Sandbox, error) {
	for _, s := range p.Sandboxes() {
		if strings.HasPrefix(string(s.ID), id) {
			return s, nil
		}
	}
	return pod.Sandbox{}, fmt.Errorf("sandbox %q: %w", id, errdefs.ErrNotFound)
}

func (p *fakePods) Sandboxes() []pod.Sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sandboxes
}

func (p *fakePods) CreateContainer(ctx context.Context, sandbox string, c pod.ContainerConfig) (pod.ID, error) {
	err := p.do(ctx, "create in "+sandbox)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.created = append(p.created, c)
	return testID, err
}

func (p *fakePods) StartContainer(ctx context.Context, id string) error {
	return p.do(ctx, "start "+id)
}

func (p *fakePods) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	return p.do(ctx, fmt.Sprintf("stop %s %v", id, grace))
}

func (p *fakePods) RemoveContainer(ctx context.Context, id string) error {
	return p.do(ctx, "rm "+id)
}

func (p *fakePods) Container(id string) (pod.Container, error) {
	for _, c := range p.Containers() {
		if strings.HasPrefix(string(c.ID), id) {
			return c, nil
		}
	}
	return pod.Container{}, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
}

func (p *fakePods) Containers() []pod.Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.containers
}

func (p *fakePods) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (pod.ExecResult, error) {
	err := p.do(ctx, fmt.Sprintf("exec %s %q %v", id, cmd, timeout))
	return p.exec, err
}

func (p *fakePods) ReopenLog(ctx context.Context, id string) error { return p.do(ctx, "reopen "+id) }

type fakeImages struct {
	imported atomic.Int64
	mu       sync.Mutex
	images   []Image
	pullErr  error
	pulled   string
	auth     Credentials
	removed  []string
}

func (i *fakeImages) Pull(_ context.Context, ref string, c Credentials) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pulled, i.auth = ref, c
	return imageID, i.pullErr
}

// Import takes every archive for one image, whose id is what the archive says.
func (i *fakeImages) Import(_ context.Context, archive io.Reader, name string) (map[string]string, error) {
	data, err := io.ReadAll(archive)
	if err != nil {
		return nil, err
	}
	if name == "bad" {
		return nil, fmt.Errorf("name %q: %w", name, errdefs.ErrInvalidArgument)
	}
	i.imported.Add(1)
	return map[string]string{"z": "1", cmp.Or(name, "a"): fmt.Sprintf("%x", sha256.Sum256(data))}, nil
}

func (i *fakeImages) List(context.Context) ([]Image, error) { return i.images, nil }

func (i *fakeImages) Find(_ context.Context, ref string) (Image, error) {
	for _, img := range i.images {
		if img.ID == ref || strings.Contains(strings.Join(img.Tags, " "), ref) {
			return img, nil
		}
	}
	return Image{}, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

func (i *fakeImages) Remove(_ context.Context, ref string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.removed = append(i.removed, ref)
	return nil
}

func (i *fakeImages) Usage(context.Context) (FSUsage, error) {
	return FSUsage{Time: time.Unix(7, 0), MountPoint: "/img", Bytes: 5, Inodes: 6}, nil
}

type fakeNetwork struct {
	ready error
	cidr  string
	fail  error
	check map[pod.ID]pod.NetworkCheck
}

func (n *fakeNetwork) Ready() error { return n.ready }
func (n *fakeNetwork) Checked(id pod.ID) (pod.NetworkCheck, bool) {
	c, ok := n.check[id]
	return c, ok
}
func (n *fakeNetwork) SetPodCIDR(c string) error {
	n.cidr = c
	return n.fail
}

var (
	testID   = pod.ID(strings.Repeat("ab", 32))
	otherID  = pod.ID(strings.Repeat("cd", 32))
	imageID  = "sha256:" + strings.Repeat("12", 32)
	digested = "docker.io/library/busybox@sha256:" + strings.Repeat("34", 32)
)

// world is a server on a real socket, with a client.
type world struct {
	streams fakeStreams
	runtime.RuntimeServiceClient
	conn    *grpc.ClientConn
	images  runtime.ImageServiceClient
	pods    *fakePods
	store   *fakeImages
	network *fakeNetwork
	stats   *fakeStats
	events  *fakeEvents
	healthy error
	ready   chan struct{}
	log     *lockedBuffer
	stop    func() error
	dir     string
}

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

func newWorld(t *testing.T, change ...func(*Deps)) *world {
	t.Helper()
	w := &world{
		pods: &fakePods{}, store: &fakeImages{}, network: &fakeNetwork{},
		stats: &fakeStats{}, events: &fakeEvents{feed: make(chan pod.Event, 10), lost: make(chan struct{})}, ready: make(chan struct{}),
		log: &lockedBuffer{}, dir: t.TempDir(),
	}
	d := Deps{
		Sandboxes: w.pods, Containers: w.pods, View: w.pods, Images: w.store, Network: w.network, Streams: &w.streams,
		Resources: w.pods, Stats: w.stats, Events: w.events, Checkpoints: w.pods,
		Healthy: func() error { return w.healthy }, Ready: w.ready,
		Layout:   paths.Layout{Root: filepath.Join(w.dir, "root"), State: filepath.Join(w.dir, "state")},
		Handlers: []Handler{{Name: "", LacksUserNamespaces: "too old"}, {Name: "crun", RecursiveReadOnly: true, UserNamespaces: true}},
		Version:  "0.1.0", Config: map[string]string{"stateDir": "/run/x"},
		Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&d)
	}
	s, err := New(d)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(w.dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	w.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(2*maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	w.conn = conn
	w.RuntimeServiceClient, w.images = runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		if err := w.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return w
}

// started is a world that has recovered.
func started(t *testing.T, change ...func(*Deps)) *world {
	t.Helper()
	w := newWorld(t, change...)
	close(w.ready)
	return w
}
