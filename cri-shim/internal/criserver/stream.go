package criserver

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/stream"
)

// Streams hands out URLs, each good for one use within a minute.
type Streams interface {
	URL(stream.Request) (string, error)
}

// Exec returns a URL for a command with streams.
func (s *runtimeService) Exec(_ context.Context, r *runtime.ExecRequest) (*runtime.ExecResponse, error) {
	var f faults
	f.id("container_id", r.GetContainerId())
	if len(r.GetCmd()) == 0 || r.GetCmd()[0] == "" {
		f.missing("cmd")
	}
	f.noNUL("cmd", r.GetCmd())
	f.streams(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	c, err := s.running(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	url, err := s.Streams.URL(stream.Request{
		Kind: stream.Exec, ID: string(c.ID), Cmd: r.GetCmd(),
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), TTY: r.GetTty(),
	})
	if err != nil {
		return nil, err
	}
	return &runtime.ExecResponse{Url: url}, nil
}

// Attach returns a URL for the streams of a container. Whether there is a terminal was decided when the container
// was created: a client that expects something else would garble what it shows.
func (s *runtimeService) Attach(_ context.Context, r *runtime.AttachRequest) (*runtime.AttachResponse, error) {
	var f faults
	f.id("container_id", r.GetContainerId())
	f.streams(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	c, err := s.running(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if r.GetTty() != c.Config.TTY {
		f.bad("tty", r.GetTty(), fmt.Sprintf("%t, as the container was created", c.Config.TTY))
	}
	if r.GetStdin() && !c.Config.Stdin {
		f.bad("stdin", true, "false, as the container was created: its standard input is not open")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	url, err := s.Streams.URL(stream.Request{
		Kind: stream.Attach, ID: string(c.ID),
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), TTY: r.GetTty(),
	})
	if err != nil {
		return nil, err
	}
	return &runtime.AttachResponse{Url: url}, nil
}

// PortForward returns a URL for connections to ports of a pod.
func (s *runtimeService) PortForward(_ context.Context, r *runtime.PortForwardRequest) (*runtime.PortForwardResponse, error) {
	var f faults
	f.id("pod_sandbox_id", r.GetPodSandboxId())
	for i, port := range r.GetPort() {
		f.within(fmt.Sprintf("port[%d]", i), int64(port), 1, maxPort)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	sb, err := s.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if sb.State != pod.Ready {
		return nil, fmt.Errorf("sandbox %s is %s, not ready: %w", sb.ID, sb.State, errdefs.ErrFailedPrecondition)
	}
	url, err := s.Streams.URL(stream.Request{Kind: stream.PortForward, ID: string(sb.ID), Ports: r.GetPort()})
	if err != nil {
		return nil, err
	}
	return &runtime.PortForwardResponse{Url: url}, nil
}

// streams checks what a client wants of the standard streams.
func (f *faults) streams(r interface {
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
}) {
	if !r.GetStdin() && !r.GetStdout() && !r.GetStderr() {
		f.invalid = append(f.invalid, "stdin, stdout and stderr are all false: want at least one")
	}
	if r.GetTty() && r.GetStderr() {
		f.bad("stderr", true, "false with tty: a terminal has one output")
	}
}

// running looks up a container that runs.
func (s *runtimeService) running(id string) (pod.Container, error) {
	c, err := s.container(id)
	if err == nil && c.State != pod.Running {
		err = fmt.Errorf("container %s is %s, not running: %w", c.ID, c.State, errdefs.ErrFailedPrecondition)
	}
	return c, err
}
