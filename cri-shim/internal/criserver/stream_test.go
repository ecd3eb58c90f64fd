package criserver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/stream"
)

// fakeStreams remembers the last request.
type fakeStreams struct {
	last stream.Request
	fail error
}

func (s *fakeStreams) URL(r stream.Request) (string, error) {
	s.last = r
	return "http://127.0.0.1:1/" + string(r.Kind) + "/token", s.fail
}

const (
	plainID    = "aa11"
	terminalID = "bb22"
	endedID    = "cc33"
)

func streamWorld(t *testing.T) *world {
	w := podWorld(t)
	w.pods.containers = []pod.Container{
		{ID: plainID, State: pod.Running},
		{ID: terminalID, State: pod.Running, Config: pod.ContainerConfig{TTY: true, Stdin: true}},
		{ID: endedID, State: pod.Exited},
	}
	return w
}

func TestStreamURLs(t *testing.T) {
	w := streamWorld(t)
	exec, err := w.Exec(t.Context(), &runtime.ExecRequest{ContainerId: plainID[:3], Cmd: []string{"ls", "-l"}, Stdin: true, Stdout: true, Stderr: true})
	if err != nil || exec.GetUrl() != "http://127.0.0.1:1/exec/token" {
		t.Errorf("exec: %v, %v", exec, err)
	}
	want := stream.Request{Kind: stream.Exec, ID: plainID, Cmd: []string{"ls", "-l"}, Stdin: true, Stdout: true, Stderr: true}
	if diff := cmp.Diff(want, w.streams.last); diff != "" {
		t.Errorf("exec: -want +got:\n%s", diff)
	}
	attach, err := w.Attach(t.Context(), &runtime.AttachRequest{ContainerId: terminalID[:3], Stdin: true, Stdout: true, Tty: true})
	if err != nil || attach.GetUrl() != "http://127.0.0.1:1/attach/token" {
		t.Errorf("attach: %v, %v", attach, err)
	}
	if diff := cmp.Diff(stream.Request{Kind: stream.Attach, ID: terminalID, Stdin: true, Stdout: true, TTY: true}, w.streams.last); diff != "" {
		t.Errorf("attach: -want +got:\n%s", diff)
	}
	ready := w.pods.sandboxes[0]
	forward, err := w.PortForward(t.Context(), &runtime.PortForwardRequest{PodSandboxId: string(ready.ID[:3]), Port: []int32{80, 65535}})
	if err != nil || forward.GetUrl() != "http://127.0.0.1:1/portforward/token" {
		t.Errorf("port forward: %v, %v", forward, err)
	}
	if diff := cmp.Diff(stream.Request{Kind: stream.PortForward, ID: string(ready.ID), Ports: []int32{80, 65535}}, w.streams.last); diff != "" {
		t.Errorf("port forward: -want +got:\n%s", diff)
	}
}

func TestStreamsRefuse(t *testing.T) {
	w := streamWorld(t)
	ls := []string{"ls"}
	for name, c := range map[string]struct {
		r    *runtime.ExecRequest
		code codes.Code
		want string
	}{
		"no id":       {&runtime.ExecRequest{Cmd: ls, Stdout: true}, codes.InvalidArgument, "container_id is missing"},
		"unknown":     {&runtime.ExecRequest{ContainerId: "dd44", Cmd: ls, Stdout: true}, codes.NotFound, "dd44"},
		"a path":      {&runtime.ExecRequest{ContainerId: "../x", Cmd: ls, Stdout: true}, codes.NotFound, "../x"},
		"ended":       {&runtime.ExecRequest{ContainerId: endedID, Cmd: ls, Stdout: true}, codes.FailedPrecondition, "exited, not running"},
		"no command":  {&runtime.ExecRequest{ContainerId: plainID, Stdout: true}, codes.InvalidArgument, "cmd is missing"},
		"empty":       {&runtime.ExecRequest{ContainerId: plainID, Cmd: []string{""}, Stdout: true}, codes.InvalidArgument, "cmd is missing"},
		"NUL":         {&runtime.ExecRequest{ContainerId: plainID, Cmd: []string{"a\x00"}, Stdout: true}, codes.InvalidArgument, "cmd[0]"},
		"no streams":  {&runtime.ExecRequest{ContainerId: plainID, Cmd: ls}, codes.InvalidArgument, "at least one"},
		"two outputs": {&runtime.ExecRequest{ContainerId: plainID, Cmd: ls, Stdout: true, Stderr: true, Tty: true}, codes.InvalidArgument, "stderr true: want false with tty"},
	} {
		t.Run("exec "+name, func(t *testing.T) {
			_, err := w.Exec(t.Context(), c.r)
			wantCode(t, err, c.code, c.want)
		})
	}
	for name, c := range map[string]struct {
		r    *runtime.AttachRequest
		code codes.Code
		want string
	}{
		"ended":       {&runtime.AttachRequest{ContainerId: endedID, Stdout: true}, codes.FailedPrecondition, "not running"},
		"unknown":     {&runtime.AttachRequest{ContainerId: "dd44", Stdout: true}, codes.NotFound, "dd44"},
		"no streams":  {&runtime.AttachRequest{ContainerId: plainID}, codes.InvalidArgument, "at least one"},
		"terminal":    {&runtime.AttachRequest{ContainerId: plainID, Stdout: true, Tty: true}, codes.InvalidArgument, "tty true: want false"},
		"no terminal": {&runtime.AttachRequest{ContainerId: terminalID, Stdout: true}, codes.InvalidArgument, "tty false: want true"},
		"input":       {&runtime.AttachRequest{ContainerId: plainID, Stdin: true}, codes.InvalidArgument, "stdin true: want false"},
	} {
		t.Run("attach "+name, func(t *testing.T) {
			_, err := w.Attach(t.Context(), c.r)
			wantCode(t, err, c.code, c.want)
		})
	}
}

func TestPortForwardRefuses(t *testing.T) {
	w := streamWorld(t)
	ready := string(w.pods.sandboxes[0].ID)
	w.pods.sandboxes = append(w.pods.sandboxes, pod.Sandbox{ID: "ee55", State: pod.NotReady})
	for name, c := range map[string]struct {
		r    *runtime.PortForwardRequest
		code codes.Code
		want string
	}{
		"no id":     {&runtime.PortForwardRequest{}, codes.InvalidArgument, "pod_sandbox_id is missing"},
		"unknown":   {&runtime.PortForwardRequest{PodSandboxId: "dd44"}, codes.NotFound, "dd44"},
		"not ready": {&runtime.PortForwardRequest{PodSandboxId: "ee55"}, codes.FailedPrecondition, "notready"},
		"0":         {&runtime.PortForwardRequest{PodSandboxId: ready, Port: []int32{80, 0}}, codes.InvalidArgument, "port[1] 0: want a number from 1 to 65535"},
		"negative":  {&runtime.PortForwardRequest{PodSandboxId: ready, Port: []int32{-1}}, codes.InvalidArgument, "port[0] -1"},
		"too large": {&runtime.PortForwardRequest{PodSandboxId: ready, Port: []int32{65536}}, codes.InvalidArgument, "port[0] 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.PortForward(t.Context(), c.r)
			wantCode(t, err, c.code, c.want)
		})
	}
	w.streams.fail = fmt.Errorf("1000 are pending: %w", errdefs.ErrResourceExhausted)
	_, err := w.PortForward(t.Context(), &runtime.PortForwardRequest{PodSandboxId: ready})
	wantCode(t, err, codes.ResourceExhausted, "pending")
	if strings.Contains(w.log.String(), "token") {
		t.Error("the log shows a token")
	}
}
