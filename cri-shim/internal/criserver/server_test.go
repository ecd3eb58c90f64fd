package criserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func wantCode(t *testing.T, err error, want codes.Code, text string) {
	t.Helper()
	if status.Code(err) != want || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v, want %v with %q", err, want, text)
	}
}

func TestNothingIsAnsweredBeforeRecovery(t *testing.T) {
	w := newWorld(t)
	_, err := w.Version(t.Context(), &runtime.VersionRequest{})
	wantCode(t, err, codes.Unavailable, "starting")
	_, err = w.images.ImageFsInfo(t.Context(), &runtime.ImageFsInfoRequest{})
	wantCode(t, err, codes.Unavailable, "starting")
	close(w.ready)
	if _, err := w.Version(t.Context(), &runtime.VersionRequest{}); err != nil {
		t.Error(err)
	}
}

func TestCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{errdefs.ErrInvalidArgument, codes.InvalidArgument},
		{errdefs.ErrNotFound, codes.NotFound},
		{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
		{errdefs.ErrUnavailable, codes.Unavailable},
		{errdefs.ErrNotImplemented, codes.Unimplemented},
		{errdefs.ErrAlreadyExists, codes.AlreadyExists},
		{errdefs.ErrPermissionDenied, codes.PermissionDenied},
		{errdefs.ErrUnauthenticated, codes.Unauthenticated},
		{errdefs.ErrResourceExhausted, codes.ResourceExhausted},
		{errdefs.ErrDataLoss, codes.DataLoss},
		{pod.ErrStart, codes.FailedPrecondition},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errors.New("odd"), codes.Internal},
		// A code from further down means something else there.
		{status.Error(codes.NotFound, "monitor: no such thing"), codes.Internal},
		{fmt.Errorf("%w and %w", context.DeadlineExceeded, errdefs.ErrNotFound), codes.DeadlineExceeded},
		{ErrRegistryUnavailable, codes.Unknown},
	} {
		if got := status.Code(statusOf(fmt.Errorf("start container x: %w", c.err))); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if statusOf(nil) != nil {
		t.Error("nil is an error")
	}
	if got := status.Code(statusOf(status.Error(codes.NotFound, "direct"))); got != codes.Internal {
		t.Errorf("a direct status from further down: %v", got)
	}
}

func TestPrefixStandsFirst(t *testing.T) {
	w := started(t)
	for prefix, class := range map[string]error{
		"RegistryUnavailable": ErrRegistryUnavailable, "SignatureValidationFailed": ErrSignature, "ImageVolumeMountFailed": pod.ErrImageVolume, "RROUnsupported": errRRO,
	} {
		for _, err := range []error{class, fmt.Errorf("mount at /x: %w: %w", class, errdefs.ErrInvalidArgument), fmt.Errorf("%s: x: %w", prefix, class)} {
			if s := status.Convert(statusOf(err)); s.Code() != codes.Unknown || !strings.HasPrefix(s.Message(), prefix+": ") || strings.Count(s.Message(), prefix) != 1 {
				t.Errorf("%s: %v", prefix, s)
			}
		}
	}
	for prefix, class := range map[string]error{"RegistryUnavailable": ErrRegistryUnavailable, "SignatureValidationFailed": ErrSignature} {
		w.store.pullErr = fmt.Errorf("pull image x: %w: connection refused", class)
		_, err := w.images.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "x"}})
		s := status.Convert(err)
		// The kubelet's client shows the bare message for Unknown only.
		if s.Code() != codes.Unknown || !strings.HasPrefix(s.Message(), prefix+": pull image x") {
			t.Errorf("%s: %v", prefix, err)
		}
	}
}

func TestPanicEndsOnlyItsCall(t *testing.T) {
	w := started(t)
	w.pods.panics = true
	_, err := w.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: string(testID)})
	wantCode(t, err, codes.Internal, "a bug in cri-shim")
	if strings.Contains(err.Error(), "on purpose") || !strings.Contains(w.log.String(), "on purpose") {
		t.Errorf("the panic belongs into the log, not the answer: %v", err)
	}
	if _, err := w.Version(t.Context(), &runtime.VersionRequest{}); err != nil {
		t.Error(err)
	}
}

// TestCallsAreTold: of each call, whatever comes of it, its begin and its end with the code that its caller gets.
func TestCallsAreTold(t *testing.T) {
	var mu sync.Mutex
	var told []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, what)
	}
	w := newWorld(t, func(d *Deps) {
		d.Call = func(method string) func(string) {
			note(method)
			return func(code string) { note(method + " " + code) }
		}
	})
	_, _ = w.Version(t.Context(), &runtime.VersionRequest{})
	close(w.ready)
	_, _ = w.Version(t.Context(), &runtime.VersionRequest{})
	w.pods.panics = true
	_, _ = w.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: string(testID)})
	ctx, cancel := context.WithCancel(t.Context())
	events, err := w.GetContainerEvents(ctx, &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for w.events.subscribers.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	_, _ = events.Recv()
	for w.events.subscribers.Load() != 0 {
		time.Sleep(time.Millisecond)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Version", "Version Unavailable", "Version", "Version OK", "StartContainer", "StartContainer Internal",
		"GetContainerEvents", "GetContainerEvents Canceled",
	}
	if !slices.Equal(told, want) {
		t.Errorf("got %q, want %q", told, want)
	}
}

// callerLeft is a stream whose caller has left.
type callerLeft struct{ grpc.ServerStream }

func (callerLeft) Context() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestCallerLeavesAStream: whether gRPC notices it or we do, it is no fault of ours.
func TestCallerLeavesAStream(t *testing.T) {
	ready := make(chan struct{})
	close(ready)
	g := &gate{ready: ready, logger: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{context.Canceled, codes.Canceled},
		{status.Error(codes.Canceled, "context canceled"), codes.Canceled},
		{status.Error(codes.Unavailable, "transport is closing"), codes.Canceled},
		{nil, codes.OK},
		{errors.New("no luck"), codes.Internal},
	} {
		err := g.stream(nil, callerLeft{}, &grpc.StreamServerInfo{FullMethod: "/x/Y"}, func(any, grpc.ServerStream) error { return c.err })
		if status.Code(err) != c.want {
			t.Errorf("%v: got %v, want %v", c.err, err, c.want)
		}
	}
}

func TestLogHoldsNoSecrets(t *testing.T) {
	w := started(t)
	w.store.pullErr = errors.New("no such registry")
	_, _ = w.images.PullImage(t.Context(), &runtime.PullImageRequest{
		Image: &runtime.ImageSpec{Image: "x"},
		Auth:  &runtime.AuthConfig{Username: "bob", Password: "hunter2", IdentityToken: "tok1", RegistryToken: "tok2"},
	})
	_, err := w.images.PullImage(t.Context(), &runtime.PullImageRequest{
		Image: &runtime.ImageSpec{Image: "x"}, Auth: &runtime.AuthConfig{Auth: "hunter2!"},
	})
	wantCode(t, err, codes.InvalidArgument, "auth.auth")
	_, err = w.CreateContainer(t.Context(), &runtime.CreateContainerRequest{
		PodSandboxId: string(testID),
		Config:       &runtime.ContainerConfig{Envs: []*runtime.KeyValue{{Key: "a=b", Value: []byte("hunter2\x00")}}},
	})
	wantCode(t, err, codes.InvalidArgument, "config.envs[0]")
	for _, secret := range []string{"hunter2", "tok1", "tok2"} {
		if strings.Contains(w.log.String(), secret) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s leaked", secret)
		}
	}
	if !strings.Contains(w.log.String(), "method=PullImage") {
		t.Errorf("no line for the call in %q", w.log)
	}
}

func TestMessageSizes(t *testing.T) {
	w := started(t)
	_, err := w.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{
		Config: &runtime.PodSandboxConfig{Annotations: map[string]string{"a": strings.Repeat("x", 12<<20)}},
	})
	wantCode(t, err, codes.InvalidArgument, "config.annotations") // it arrived
	_, err = w.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{
		Config: &runtime.PodSandboxConfig{Annotations: map[string]string{"a": strings.Repeat("x", 17<<20)}},
	})
	wantCode(t, err, codes.ResourceExhausted, "")

	w.pods.exec = pod.ExecResult{Stdout: make([]byte, 16<<20), Stderr: []byte("end")}
	resp, err := w.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: string(testID), Cmd: []string{"x"}})
	if err != nil || len(resp.GetStdout()) < 15<<20 || string(resp.GetStderr()) != "end" {
		t.Errorf("16 MiB of output do not arrive: %v", err)
	}
}

func TestCallerLeavesAndServerEnds(t *testing.T) {
	w := started(t)
	w.pods.block = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := w.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: string(testID)})
	wantCode(t, err, codes.DeadlineExceeded, "")

	answered := make(chan error, 1)
	go func() {
		_, err := w.StartContainer(context.Background(), &runtime.StartContainerRequest{ContainerId: string(testID)})
		answered <- err
	}()
	for !strings.Contains(strings.Join(calls(w.pods), " "), "start "+string(testID)+" start") {
		time.Sleep(time.Millisecond)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	close(w.pods.block) // a call in flight may finish
	if err := <-answered; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func calls(p *fakePods) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.calls...)
}

func TestNewRefusesHalf(t *testing.T) {
	if _, err := New(Deps{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}
