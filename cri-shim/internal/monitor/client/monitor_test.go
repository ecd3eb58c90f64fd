package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "monitor-test")
	if err == nil {
		binary = filepath.Join(dir, "cri-monitor")
		cmd := exec.Command("go", "build", "-o", binary, "github.com/podwright/podwright/cmd/cri-monitor")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// node is a monitor with containers of its own, on the real OCI runtime.
type node struct {
	t      *testing.T
	c      *Client
	layout paths.Layout
	parent string // cgroup
	exits  chan pod.Process
}

func newNode(t *testing.T) *node {
	nettest.RequireRoot(t)
	runtime, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	return newNodeOn(t, runtime)
}

func newNodeOn(t *testing.T, runtime string) *node {
	nettest.RequireRoot(t)
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, layout: paths.Layout{State: dir}, parent: "/podwright-test-" + filepath.Base(dir), exits: make(chan pod.Process, 100)}
	n.c = New(Options{
		Layout: n.layout, Binary: binary, Args: []string{"--state", dir, "--runtime", "=" + runtime, "--log-level", "info"},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err := n.c.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = n.c.Watch(ctx, func(id pod.ID, e pod.Exit) { n.exits <- pod.Process{ID: id, Exit: &e} })
	})
	t.Cleanup(func() { cancel(); wg.Wait(); n.cleanUp() })
	return n
}

func (n *node) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	procs, err := n.c.List(ctx)
	if err != nil {
		n.t.Error(err)
	}
	for _, p := range procs {
		if err := n.c.Delete(ctx, p.ID); err != nil {
			n.t.Errorf("Delete: %v", err)
		}
	}
	if n.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(n.layout.Monitor(), "monitor.log"))
		n.t.Logf("monitor.log:\n%s", log)
	}
	for _, pattern := range []string{n.layout.State + "/bundles/*/std*", n.layout.Monitor() + "/exits/*", n.layout.Monitor() + "/containers/*", n.layout.RuncRoot() + "/*", "/sys/fs/cgroup/*" + n.parent + "/*/cgroup.procs", "/sys/fs/cgroup" + n.parent + "/*/cgroup.procs"} {
		if left, _ := filepath.Glob(pattern); len(left) != 0 {
			n.t.Errorf("left: %v", left)
		}
	}
	pid := n.pid()
	_ = n.c.Close()
	_ = syscall.Kill(pid, syscall.SIGTERM)
	for i := 0; i < 500 && syscall.Kill(pid, 0) == nil; i++ {
		time.Sleep(10 * time.Millisecond)
	}
	for _, dir := range []string{"/sys/fs/cgroup/*" + n.parent, "/sys/fs/cgroup" + n.parent} {
		all, _ := filepath.Glob(dir)
		for _, d := range all {
			_ = os.Remove(d)
		}
	}
	_ = os.RemoveAll(n.layout.State)
}

func (n *node) pid() int {
	data, err := os.ReadFile(filepath.Join(n.layout.Monitor(), "pid"))
	pid, err2 := strconv.Atoi(string(data))
	if err := errors.Join(err, err2); err != nil {
		n.t.Fatal(err)
	}
	return pid
}

// rootfs is one root file system for all containers, with the host's static busybox.
func (n *node) rootfs() string {
	root := filepath.Join(n.layout.State, "rootfs")
	if _, err := os.Stat(root); err == nil {
		return root
	}
	busybox, err := os.ReadFile("/bin/busybox")
	for _, dir := range []string{"bin", "proc", "dev", "tmp"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	if err = errors.Join(err, os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755)); err != nil {
		n.t.Fatal(err)
	}
	return root
}

func (n *node) logs() string { return filepath.Join(n.layout.State, "logs") }

// bundle writes a container that runs a shell script.
func (n *node) bundle(id, script string, change func(*specs.Spec)) pod.StartSpec {
	n.t.Helper()
	dir := n.layout.Bundle(id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	spec := &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{Args: []string{"/bin/busybox", "sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin"}},
		Root:    &specs.Root{Path: n.rootfs(), Readonly: true},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: n.parent + "/" + id,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}},
			Resources:   &specs.LinuxResources{},
		},
	}
	if change != nil {
		change(spec)
	}
	data, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return pod.StartSpec{ID: pod.ID(id), SandboxID: "s", Bundle: dir, LogDir: n.logs(), LogPath: filepath.Join(n.logs(), id+".log"), TTY: spec.Process.Terminal}
}

func (n *node) start(id, script string, change func(*specs.Spec)) pod.StartSpec {
	n.t.Helper()
	s := n.bundle(id, script, change)
	if _, err := n.c.Start(n.t.Context(), s); err != nil {
		n.t.Fatal(err)
	}
	return s
}

func (n *node) exit(id string) pod.Exit {
	n.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case p := <-n.exits:
			if p.ID == pod.ID(id) {
				return *p.Exit
			}
		case <-deadline:
			n.t.Fatalf("no end of %s", id)
		}
	}
}

// logged returns the text of one stream, partial lines joined.
func logged(t *testing.T, path, stream string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for line := range bytes.Lines(data) {
		f := bytes.SplitN(line, []byte(" "), 4)
		if len(f) != 4 {
			t.Fatalf("line %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, string(f[0])); err != nil {
			t.Fatal(err)
		}
		if string(f[1]) != stream {
			continue
		}
		out.Write(bytes.TrimSuffix(f[3], []byte("\n")))
		if string(f[2]) == "F" {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

func TestEnds(t *testing.T) {
	n := newNode(t)
	for id, c := range map[string]struct {
		script string
		want   pod.Exit
	}{
		"zero":   {"exit 0", pod.Exit{}},
		"seven":  {"exit 7", pod.Exit{Code: 7}},
		"killed": {"sleep 100 & echo $$; kill -9 $!; wait $!; exit $?", pod.Exit{Code: 137}},
	} {
		n.start(id, c.script, nil)
		got := n.exit(id)
		if got.FinishedAt.IsZero() {
			t.Errorf("%s: no time", id)
		}
		got.FinishedAt = time.Time{}
		if got != c.want {
			t.Errorf("%s: got %+v", id, got)
		}
	}
	n.start("term", "exec sleep 1000", nil)
	if err := n.c.Signal(t.Context(), "term", "KILL"); err != nil {
		t.Fatal(err)
	}
	if got := n.exit("term"); got.Code != 137 || got.Signal != 9 || got.OOMKilled {
		t.Errorf("term: got %+v", got)
	}
}

func TestOOM(t *testing.T) {
	n := newNode(t)
	limit := int64(15 << 20)
	n.start("oom", "dd if=/dev/zero of=/dev/null bs=100M count=1", func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	})
	if got := n.exit("oom"); got.Code != 137 || !got.OOMKilled {
		t.Errorf("got %+v", got)
	}
}

func TestLogIsByteExact(t *testing.T) {
	n := newNode(t)
	s := n.start("lines", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo err >&2; head -c 1048576 /dev/zero | tr '\\0' x; echo; printf end", nil)
	n.exit("lines")
	var want bytes.Buffer
	for i := range 20000 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	want.WriteString(strings.Repeat("x", 1<<20) + "\nend")
	if got := logged(t, s.LogPath, "stdout"); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("stdout: %d bytes, want %d", len(got), want.Len())
	}
	if got := logged(t, s.LogPath, "stderr"); string(got) != "err\n" {
		t.Errorf("stderr: %q", got)
	}
}

func TestTerminal(t *testing.T) {
	n := newNode(t)
	s := n.start("tty", "test -t 0 && test -t 1 && echo yes", func(s *specs.Spec) { s.Process.Terminal = true })
	if got := n.exit("tty"); got.Code != 0 {
		t.Errorf("got %+v", got)
	}
	if got := logged(t, s.LogPath, "stdout"); string(got) != "yes\r\n" {
		t.Errorf("log: %q", got)
	}
}

func TestExec(t *testing.T) {
	n := newNode(t)
	n.start("c", "exec sleep 1000", nil)
	run := func(timeout time.Duration, script string) (pod.ExecResult, error) {
		return n.c.Exec(t.Context(), pod.ExecSpec{ID: "c", Cmd: []string{"/bin/busybox", "sh", "-c", script}, Timeout: timeout})
	}
	r, err := run(0, "echo out; echo err >&2; exit 5")
	if err != nil || string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || r.ExitCode != 5 {
		t.Errorf("got %+v, %v", r, err)
	}
	r, err = run(0, "echo out; sleep 300 & exit 0")
	if err != nil || string(r.Stdout) != "out\n" {
		t.Errorf("with a child that holds the pipe: %+v, %v", r, err)
	}
	_, err = run(300*time.Millisecond, "sleep 400 & (sleep 401 &) ; sleep 402")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("timeout: %v", err)
	}
	r, err = run(0, "ps | grep -c 'sleep 40[0-9]$'")
	if err != nil || string(r.Stdout) != "0\n" {
		t.Errorf("after the timeout %q run, %v, %s", r.Stdout, err, r.Stderr)
	}
	big, err := run(0, "head -c 3000000 /dev/zero")
	if err != nil || len(big.Stdout) != 3000000 {
		t.Errorf("%d bytes, %v", len(big.Stdout), err)
	}
	if _, err := n.c.Exec(t.Context(), pod.ExecSpec{ID: "c", Cmd: []string{"/no/such"}}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no such command: %v", err)
	}
	if _, err := n.c.Exec(t.Context(), pod.ExecSpec{ID: "x", Cmd: []string{"/bin/true"}}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("no such container: %v", err)
	}
}

// TestKillFrozen: SIGKILL does not reach what a cgroup of v1 has frozen, as "runc pause" does; a kill thaws it.
func TestKillFrozen(t *testing.T) {
	n := newNode(t)
	n.start("frozen", "sleep 1000 & sleep 1000", nil)
	v1, v2 := "/sys/fs/cgroup/freezer"+n.parent+"/frozen/freezer.state", "/sys/fs/cgroup"+n.parent+"/frozen/cgroup.freeze"
	if os.WriteFile(v1, []byte("FROZEN"), 0) != nil {
		if err := os.WriteFile(v2, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := n.c.Kill(ctx, "frozen"); err != nil {
		_ = os.WriteFile(v1, []byte("THAWED"), 0)
		t.Fatal(err)
	}
	if e := n.exit("frozen"); e.Code != 137 {
		t.Errorf("got %+v", e)
	}
}

// TestSwappedLogs: a link in the place of the log's directory is not followed, by a start nor by the next monitor, under
// which the container can go on writing.
func TestSwappedLogs(t *testing.T) {
	n := newNode(t)
	n.start("writes", "sleep 2; head -c 1000000 /dev/zero | tr '\\0' '\\n'; exit 5", nil)
	outside := t.TempDir()
	if err := errors.Join(os.Rename(n.logs(), n.logs()+".was"), os.Symlink(outside, n.logs())); err != nil {
		t.Fatal(err)
	}
	if _, err := n.c.Start(t.Context(), n.bundle("late", "echo x", nil)); err == nil || !strings.Contains(err.Error(), "open log") {
		t.Errorf("a start: %v", err)
	}
	if err := syscall.Kill(n.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := n.exit("writes"); e.Code != 5 {
		t.Errorf("it ended with %+v", e)
	}
	if made, err := os.ReadDir(outside); err != nil || len(made) > 0 {
		t.Errorf("made outside: %v, %v", made, err)
	}
}

// TestRefusedSessionsLeakNothing: descriptors that come with a request are closed, also when nothing is done with them.
func TestRefusedSessionsLeakNothing(t *testing.T) {
	n := newNode(t)
	open := func() (out []string) {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.pid()))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", n.pid(), fd.Name()))
			out = append(out, fd.Name()+" "+link)
		}
		return out
	}
	s := pod.Streams{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}, Go: func(f func()) { go f() }}
	if _, err := n.c.List(t.Context()); err != nil { // the connection of ordinary calls is there
		t.Fatal(err)
	}
	before := open()
	for range 20 {
		if _, err := n.c.ExecStream(t.Context(), pod.ExecSpec{ID: "x", Cmd: []string{"x"}}, s); !errors.Is(err, errdefs.ErrNotFound) {
			t.Fatal(err)
		}
		if err := n.c.Attach(t.Context(), "x", s); !errors.Is(err, errdefs.ErrNotFound) {
			t.Fatal(err)
		}
	}
	var after []string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if after = open(); len(after) <= len(before) {
			return
		}
	}
	t.Errorf("%d descriptors were open, %d are:\n%q\n%q", len(before), len(after), before, after)
}

func TestStartFailureLeavesNothing(t *testing.T) {
	n := newNode(t)
	s := n.bundle("bad", "", func(s *specs.Spec) { s.Process.Args = []string{"/no/such/command"} })
	_, err := n.c.Start(t.Context(), s)
	if !errors.Is(err, pod.ErrStart) || !strings.Contains(err.Error(), "/no/such/command") {
		t.Errorf("got %v", err)
	}
	procs, err := n.c.List(t.Context())
	if err != nil || len(procs) != 0 {
		t.Errorf("%v, %v", procs, err)
	}
}

func TestStartTwiceIsOnce(t *testing.T) {
	n := newNode(t)
	s := n.bundle("twice", "exec sleep 1000", nil)
	var wg sync.WaitGroup
	pids := make([]int, 5)
	for i := range pids {
		wg.Go(func() {
			p, err := n.c.Start(t.Context(), s)
			if err != nil {
				t.Error(err)
			}
			pids[i] = p.PID
		})
	}
	wg.Wait()
	for _, p := range pids {
		if p == 0 || p != pids[0] {
			t.Fatalf("got %v", pids)
		}
	}
}

// TestKillMonitor kills the monitor while a container logs: it runs on, nothing it wrote is lost, and its true
// exit code arrives.
func TestKillMonitor(t *testing.T) {
	n := newNode(t)
	s := n.start("log", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); [ $((i%100)) = 0 ] && sleep 0.05; done; exit 9", nil)
	n.start("idle", "exec sleep 1000", nil)
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		if err := syscall.Kill(n.pid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if got := n.exit("log"); got.Code != 9 || got.Lost {
		t.Errorf("got %+v", got)
	}
	got := string(logged(t, s.LogPath, "stdout"))
	for i := range 3000 {
		if !strings.Contains(got, fmt.Sprintf("line %d\n", i)) {
			t.Fatalf("line %d is missing", i)
		}
	}
	r, err := n.c.Exec(t.Context(), pod.ExecSpec{ID: "idle", Cmd: []string{"/bin/busybox", "echo", "hi"}})
	if err != nil || string(r.Stdout) != "hi\n" {
		t.Errorf("exec: %+v, %v", r, err)
	}
	if err := n.c.Kill(t.Context(), "idle"); err != nil {
		t.Error(err)
	}
	if got := n.exit("idle"); got.Code != 137 || got.Signal != 9 {
		t.Errorf("idle: %+v", got)
	}
}
