// Command nriplugin is a plugin of the Node Resource Interface for tests. It writes a line for each event to a file,
// gives every container an environment variable, a mount and limits, and hangs while FILE.hang exists. SIGUSR1 makes it
// ask for an update of the container that it saw last.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

type plugin struct {
	mu   sync.Mutex
	file string
	last string
}

func (p *plugin) write(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, err := os.OpenFile(p.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(f, format+"\n", args...)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Configure is told of the file when the runtime has started the plugin.
func (p *plugin) Configure(_ context.Context, config, runtime, version string) (api.EventMask, error) {
	if config = strings.TrimSpace(config); config != "" {
		p.file = config
	}
	p.write("configure %s %s", runtime, version)
	return 0, nil
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.write("synchronize %d %d", len(pods), len(containers))
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.write("RunPodSandbox %s %d", s.GetName(), len(s.GetIps()))
	return nil
}

func (p *plugin) StopPodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.write("StopPodSandbox %s", s.GetName())
	return nil
}

func (p *plugin) RemovePodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.write("RemovePodSandbox %s", s.GetName())
	return nil
}

func (p *plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.event("CreateContainer", c)
	if _, err := os.Stat(p.file + ".hang"); err == nil {
		p.write("hang")
		select {}
	}
	p.mu.Lock()
	p.last = c.GetId()
	p.mu.Unlock()
	a := &api.ContainerAdjustment{}
	a.AddEnv("NRI", "was here")
	a.AddMount(&api.Mount{Source: "/etc", Destination: "/nri", Type: "bind", Options: []string{"rbind", "ro"}})
	a.SetLinuxCPUShares(512)
	a.SetLinuxMemoryLimit(64 << 20)
	a.SetLinuxPidLimits(77)
	return a, nil, nil
}

func (p *plugin) event(name string, c *api.Container) { p.write("%s %s", name, c.GetName()) }

func (p *plugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.event("PostCreateContainer", c)
	return nil
}

func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.event("StartContainer", c)
	return nil
}

func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.event("PostStartContainer", c)
	return nil
}

func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, _ *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.event("UpdateContainer", c)
	return nil, nil
}

func (p *plugin) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.event("PostUpdateContainer", c)
	return nil
}

func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.write("StopContainer %s %d", c.GetName(), c.GetExitCode())
	return nil, nil
}

func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.event("RemoveContainer", c)
	return nil
}

// askForUpdates does so for each signal.
func (p *plugin) askForUpdates(s stub.Stub, signals <-chan os.Signal) {
	for range signals {
		p.mu.Lock()
		id := p.last
		p.mu.Unlock()
		u := &api.ContainerUpdate{}
		u.SetContainerId(id)
		u.SetLinuxCPUShares(300)
		failed, err := s.UpdateContainers([]*api.ContainerUpdate{u})
		p.write("asked %d %v", len(failed), err)
	}
}

func main() {
	socket := flag.String("socket", "", "`SOCKET` of the runtime")
	file := flag.String("events", os.DevNull, "`FILE` for the events")
	flag.Parse()
	p := &plugin{file: *file}
	var options []stub.Option
	if *socket != "" { // else the runtime has started us
		options = append(options, stub.WithSocketPath(*socket), stub.WithPluginName("recorder"), stub.WithPluginIdx("10"))
	}
	s, err := stub.New(p, options...)
	if err == nil {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGUSR1)
		go p.askForUpdates(s, signals) // as long as the process
		err = s.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nriplugin:", err)
		os.Exit(1)
	}
}
