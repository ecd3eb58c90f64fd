package nri

import (
	"context"
	"errors"
	"net"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func TestLife(t *testing.T) {
	i := run(t, options(t))
	p := i.connect(t, &plugin{})
	s, created, running, exited := sandbox(), container(pod.Created), container(pod.Running), container(pod.Exited)
	running.PID, exited.Exit.Code = 42, 3

	i.tell(t, pod.SandboxRuns, s, pod.Container{})
	if _, err := i.create(t); err != nil {
		t.Fatal(err)
	}
	i.tell(t, pod.ContainerCreated, s, created)
	i.tell(t, pod.ContainerStarts, s, created)
	i.tell(t, pod.ContainerStarted, s, running)
	if c := p.last; c.GetPid() != 42 || c.GetState() != api.ContainerState_CONTAINER_RUNNING || c.GetName() != "cn" || c.GetEnv()[0] != "A=1" || c.GetLabels()["l"] != "1" {
		t.Errorf("a running container is %v", c)
	}
	i.runtime.sandboxes = []pod.Sandbox{s}
	s.Resources = &pod.Resources{CPUShares: 9}
	i.tell(t, pod.SandboxUpdates, s, pod.Container{})
	for range 2 { // the exit and the stop both tell
		i.tell(t, pod.ContainerStopped, s, exited)
	}
	if c := p.last; c.GetExitCode() != 3 || c.GetState() != api.ContainerState_CONTAINER_STOPPED {
		t.Errorf("a container that has ended is %v", c)
	}
	i.tell(t, pod.ContainerRemoved, s, exited)
	i.tell(t, pod.ContainerRemoved, s, exited)
	i.tell(t, pod.SandboxStopped, s, pod.Container{})
	i.tell(t, pod.SandboxStopped, s, pod.Container{})
	i.tell(t, pod.SandboxRemoved, s, pod.Container{})
	want := []string{
		"sync 0 0", "run ns/n", "create", "created", "start", "started", "update pod from 0 to 9",
		"stop", "remove", "stop pod", "remove pod",
	}
	if got := p.events(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if len(i.told) != 0 {
		t.Errorf("still known: %v", i.told)
	}
}

// TestRemovalTellsTheEndToo: what is removed was stopped before, for plugins too.
func TestRemovalTellsTheEndToo(t *testing.T) {
	i := run(t, options(t))
	p := i.connect(t, &plugin{})
	i.tell(t, pod.SandboxRuns, sandbox(), pod.Container{})
	if _, err := i.create(t); err != nil {
		t.Fatal(err)
	}
	i.tell(t, pod.ContainerRemoved, sandbox(), container(pod.Removing))
	i.tell(t, pod.SandboxRemoved, sandbox(), pod.Container{})
	if got, want := p.events(), []string{"sync 0 0", "run ns/n", "create", "stop", "remove", "stop pod", "remove pod"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNewcomers(t *testing.T) {
	i := run(t, options(t))
	i.runtime.sandboxes = []pod.Sandbox{sandbox()}
	i.runtime.containers = []pod.Container{container(pod.Running), container(pod.Exited), container(pod.Removing)}
	p := &plugin{updates: []*api.ContainerUpdate{shares("c", 77), shares("fails", 1)}}
	i.connect(t, p)
	if got := p.events(); !slices.Equal(got, []string{"sync 1 1"}) {
		t.Errorf("got %q", got)
	}
	i.eventually(t, func() bool { u, ok := i.runtime.update("c"); return ok && u.CPUShares == 77 })
	i.tell(t, pod.ContainerStopped, sandbox(), container(pod.Exited))
	if got := p.events(); got[len(got)-1] != "stop" {
		t.Errorf("got %q", got)
	}
}

// TestNewcomersMissNothing: while a step is open nobody joins. What comes of it is in what the newcomer is told.
func TestNewcomersMissNothing(t *testing.T) {
	i := run(t, options(t))
	step := i.Begin()
	p := &plugin{}
	dialled := make(chan struct{})
	go func() { defer close(dialled); i.dial(t, p) }()
	select {
	case <-dialled:
		// The stub returns when it is configured. It is told of what there is after that.
	case <-time.After(10 * time.Second):
		t.Fatal("the plugin was not accepted")
	}
	select {
	case <-p.synced:
		t.Fatal("the plugin joined while a step was open")
	case <-time.After(100 * time.Millisecond):
	}
	i.runtime.mu.Lock()
	i.runtime.sandboxes = []pod.Sandbox{sandbox()}
	i.runtime.mu.Unlock()
	<-step.End()
	<-p.synced
	if got := p.events(); !slices.Equal(got, []string{"sync 1 0"}) {
		t.Errorf("got %q", got)
	}
}

// TestFaultyPlugins: whatever a plugin does, the operation goes on and the plugin is dropped.
func TestFaultyPlugins(t *testing.T) {
	for name, fault := range map[string]func(*plugin){
		"hangs": func(*plugin) { time.Sleep(2 * time.Second) },
		"dies":  func(p *plugin) { go p.stub.Stop(); time.Sleep(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			opt := options(t)
			opt.RequestTimeout = 300 * time.Millisecond
			i := run(t, opt)
			p := &plugin{}
			p.onCreate = func() { fault(p) }
			i.connect(t, p)
			if p.stub.RequestTimeout() != opt.RequestTimeout || p.stub.RegistrationTimeout() != opt.RegistrationTimeout {
				t.Errorf("it is told of %s and %s", p.stub.RequestTimeout(), p.stub.RegistrationTimeout())
			}
			s, err := i.create(t)
			if err != nil || len(s.Process.Env) != 1 {
				t.Errorf("got %v, %v", s.Process.Env, err)
			}
			i.tell(t, pod.ContainerCreated, sandbox(), container(pod.Created))
			if got := p.events(); slices.Contains(got, "created") || i.count.Load() != 0 {
				t.Errorf("it is still told: %q, count %d", got, i.count.Load())
			}
			step := i.Begin()
			if step.Listening() || len(i.told) != 0 {
				t.Errorf("listening %v, known %v", step.Listening(), i.told)
			}
			step.End()
			other := i.connect(t, &plugin{}) // there is room for its successor
			i.tell(t, pod.SandboxRuns, sandbox(), pod.Container{})
			if got := other.events(); got[len(got)-1] != "run ns/n" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestRefusal(t *testing.T) {
	i := run(t, options(t))
	i.connect(t, &plugin{adjust: &api.ContainerAdjustment{Linux: &api.LinuxContainerAdjustment{
		Resources: &api.LinuxResources{BlockioClass: api.String("gold")},
	}}})
	_, err := i.create(t)
	if !errors.Is(err, errdefs.ErrNotImplemented) || !strings.Contains(err.Error(), "gold") {
		t.Errorf("got %v", err)
	}
}

// TestNonsense: who does not speak the protocol is cut off, and holds up nobody for longer than a registration may take.
func TestNonsense(t *testing.T) {
	opt := options(t)
	opt.RegistrationTimeout = 300 * time.Millisecond
	i := run(t, opt)
	// A header of the multiplexer that names a frame of 4 GiB, and one that never ends.
	for _, nonsense := range []string{"\x00\x00\x00\x01\xff\xff\xff\xff", "GET / HTTP/1.1\r\n\r\n" + strings.Repeat("x", 1<<16), ""} {
		conn, err := net.Dial("unix", i.socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(nonsense)); err != nil && len(nonsense) < 1<<10 {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			if _, err = conn.Read(make([]byte, 1<<10)); err != nil {
				break
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.20q: it is not cut off", nonsense)
		}
		_ = conn.Close()
	}
	i.connect(t, &plugin{})
}

// TestPluginsLeaveNothing: goroutines and descriptors are those from before.
func TestPluginsLeaveNothing(t *testing.T) {
	i := run(t, options(t))
	come := func() {
		p := &plugin{}
		i.connect(t, p)
		if _, err := i.create(t); err != nil {
			t.Fatal(err)
		}
		p.stub.Stop()
		<-p.lost
		i.eventually(t, func() bool {
			i.tell(t, pod.ContainerCreated, sandbox(), container(pod.Created))
			return i.count.Load() == 0
		})
	}
	come()
	goroutines, files := goruntime.NumGoroutine(), descriptors(t)
	for range 20 {
		come()
	}
	i.eventually(t, func() bool { return goruntime.NumGoroutine() <= goroutines+2 && descriptors(t) <= files })
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func shares(id string, n uint64) *api.ContainerUpdate {
	u := &api.ContainerUpdate{}
	u.SetContainerId(id)
	u.SetLinuxCPUShares(n)
	return u
}

func TestUpdates(t *testing.T) {
	i := run(t, options(t))
	p := &plugin{}
	i.connect(t, p)
	pids := &api.ContainerUpdate{}
	pids.SetContainerId("p")
	pids.SetLinuxPidLimits(5)
	spared := shares("fails", 1)
	spared.SetIgnoreFailure()
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{shares("a", 5), shares("fails", 5), pids})
	if err != nil || len(failed) != 2 || failed[0].GetContainerId() != "fails" || failed[1].GetContainerId() != "p" {
		t.Errorf("failed: %v, %v", failed, err)
	}
	if failed, err = p.stub.UpdateContainers([]*api.ContainerUpdate{spared}); err != nil || len(failed) != 0 {
		t.Errorf("failed: %v, %v", failed, err)
	}
	if u, _ := i.runtime.update("a"); u.CPUShares != 5 {
		t.Errorf("got %+v", u)
	}
	if _, ok := i.runtime.update("p"); ok {
		t.Error("half of an update was applied")
	}

	// One for the container itself, one for another.
	i.know("c", describe(container(pod.Running), spec()))
	own := shares("c", 5)
	own.SetLinuxCPUSetCPUs("0-1")
	p.updates = []*api.ContainerUpdate{own, shares("b", 6)}
	step := i.Begin()
	got, err := step.Update(t.Context(), sandbox(), container(pod.Running), pod.Resources{CPUQuota: 1000, OOMScoreAdj: 3, Unified: map[string]string{"a.b": "1"}})
	<-step.End()
	if err != nil || got.CPUShares != 5 || got.CpusetCPUs != "0-1" || got.CPUQuota != 1000 || got.OOMScoreAdj != 3 || got.Unified["a.b"] != "1" {
		t.Errorf("got %+v, %v", got, err)
	}
	if u, _ := i.runtime.update("b"); u.CPUShares != 6 {
		t.Errorf("got %+v", u)
	}
	if q := p.resources.GetCpu(); q.GetQuota().GetValue() != 1000 || q.GetShares() != nil {
		t.Errorf("the plugin was shown %v", q)
	}

	p.updates = nil
	step = i.Begin()
	got, err = step.Update(t.Context(), sandbox(), container(pod.Running), pod.Resources{CPUQuota: 1})
	<-step.End()
	if err != nil || got.CPUQuota != 1 {
		t.Errorf("nothing to change: %+v, %v", got, err)
	}
}

func TestCreationMakesRoom(t *testing.T) {
	i := run(t, options(t))
	i.connect(t, &plugin{updates: []*api.ContainerUpdate{shares("other", 3)}})
	i.runtime.mu.Lock()
	i.runtime.updates = map[pod.ID]pod.Resources{}
	i.runtime.mu.Unlock()
	if _, err := i.create(t); err != nil {
		t.Fatal(err)
	}
	if u, ok := i.runtime.update("other"); !ok || u.CPUShares != 3 {
		t.Errorf("got %+v: it was not done when the step had ended", u)
	}
}

func TestEvictions(t *testing.T) {
	i := run(t, options(t))
	<-i.carryOut(wishes{evictions: []*api.ContainerEviction{{ContainerId: "x"}}})
	if !slices.Equal(i.runtime.stopped, []string{"x"}) {
		t.Errorf("stopped %v", i.runtime.stopped)
	}
	i.end()
	<-i.carryOut(wishes{evictions: []*api.ContainerEviction{{ContainerId: "y"}}})
	if len(i.runtime.stopped) != 1 {
		t.Errorf("after the end: stopped %v", i.runtime.stopped)
	}
}

func TestSocketOfAnother(t *testing.T) {
	first := run(t, options(t))
	opt := options(t)
	opt.SocketPath = first.socket
	run(t, opt)
	first.connect(t, &plugin{})
	if first.count.Load() != 1 {
		t.Error("the second instance took the socket")
	}
}

// TestSocketOfTheDead: a socket that nobody serves any more is taken over; a connection never was accepted there.
func TestSocketOfTheDead(t *testing.T) {
	opt := options(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: opt.SocketPath, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	i := run(t, opt)
	i.connect(t, &plugin{})
	i.end()
	if _, err := os.Lstat(opt.SocketPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

func TestNoConnections(t *testing.T) {
	opt := options(t)
	opt.DisableConnections = true
	i := run(t, opt)
	if _, err := net.Dial("unix", i.socket); err == nil {
		t.Error("it accepts connections")
	}
}

func TestBadPlugins(t *testing.T) {
	opt := options(t)
	if err := os.MkdirAll(opt.PluginPath, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(opt.PluginPath+"/noindex", []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Run(context.Background(), &runtime{}, func() { t.Error("ready") })
	if err == nil || !strings.Contains(err.Error(), "noindex") || !strings.Contains(err.Error(), "nri.disable") {
		t.Errorf("got %v", err)
	}
	step := p.Begin() // nobody waits for what has failed
	if step.Listening() {
		t.Error("listening")
	}
	<-step.End()
}

func TestDefaultValidator(t *testing.T) {
	opt := options(t)
	opt.Validator = Validator{Enable: true, RejectOCIHookAdjustment: true}
	i := run(t, opt)
	adjust := &api.ContainerAdjustment{}
	adjust.AddHooks(&api.Hooks{Prestart: []*api.Hook{{Path: "/bin/true"}}})
	p := i.connect(t, &plugin{adjust: adjust})
	if _, err := i.create(t); err == nil || !strings.Contains(err.Error(), "hook") {
		t.Errorf("got %v", err)
	}
	p.adjust = &api.ContainerAdjustment{}
	p.adjust.AddEnv("B", "2")
	if s, err := i.create(t); err != nil || !slices.Contains(s.Process.Env, "B=2") {
		t.Errorf("got %v, %v", s.Process.Env, err)
	}
}
