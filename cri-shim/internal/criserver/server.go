package criserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/paths"
)

const (
	// maxMessage is what the kubelet's client receives at most; a request may be as large.
	maxMessage = 16 << 20
	// drainLimit is how long calls in flight may go on after the end was asked for. Their work goes
	// on in any case; only the caller has to ask again.
	drainLimit = 5 * time.Second
)

// Deps are the parts of a Server. All are needed but Call and Config.
type Deps struct {
	Sandboxes  Sandboxes
	Containers Containers
	View       ContainerView
	Images     Images
	Network    Network
	Resources  Resources
	Stats      Stats
	Events     Events
	Streams    Streams
	// Checkpoints may be refused where CRIU is missing.
	Checkpoints Checkpoints
	// Healthy is nil while containers can be run; the error is shown in the node's status.
	Healthy func() error
	// Call is told of each call, and what it returns, of its end with the gRPC code; nil: nobody is.
	Call func(method string) func(code string)
	// Ready is closed when records and reality agree; until then every call is Unavailable.
	Ready <-chan struct{}

	Layout        paths.Layout
	Handlers      []Handler // the first is the default, named ""
	SystemdCgroup bool      // the cgroup driver: systemd, else cgroupfs
	Version       string    // of cri-shim: a semantic version
	Config        any       // shown as JSON in a verbose status; holds no secrets
	Logger        *slog.Logger
}

// Handler is an OCI runtime that a sandbox may ask for by name.
type Handler struct {
	Name              string
	RecursiveReadOnly bool
	UserNamespaces    bool
	// LacksUserNamespaces says why UserNamespaces is false.
	LacksUserNamespaces string
	// Warning says what is known against it; "" is nothing.
	Warning string
}

// Server answers the CRI.
type Server struct {
	grpc    *grpc.Server
	service *runtimeService
}

// New checks the parts and starts nothing.
func New(d Deps) (*Server, error) {
	if d.Sandboxes == nil || d.Containers == nil || d.View == nil || d.Images == nil || d.Network == nil || d.Streams == nil {
		return nil, fmt.Errorf("CRI server: a part is missing: %w", errdefs.ErrInvalidArgument)
	}
	if d.Resources == nil || d.Stats == nil || d.Events == nil || d.Checkpoints == nil {
		return nil, fmt.Errorf("CRI server: resources, stats, events and checkpoints are needed: %w", errdefs.ErrInvalidArgument)
	}
	if d.Healthy == nil || d.Ready == nil || d.Logger == nil || d.Version == "" {
		return nil, fmt.Errorf("CRI server: health, readiness, logger and version are needed: %w", errdefs.ErrInvalidArgument)
	}
	if len(d.Handlers) == 0 || d.Handlers[0].Name != "" {
		return nil, fmt.Errorf("CRI server: the first handler must be the default one, named \"\": %w", errdefs.ErrInvalidArgument)
	}
	config, err := json.Marshal(d.Config)
	if err != nil {
		return nil, fmt.Errorf("CRI server: print the configuration: %w", err)
	}
	g := &gate{ready: d.Ready, tell: d.Call, logger: d.Logger}
	s := grpc.NewServer(
		grpc.UnaryInterceptor(g.unary),
		grpc.StreamInterceptor(g.stream),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.WaitForHandlers(true),
	)
	service := &runtimeService{Deps: d, config: string(config), ending: make(chan struct{})}
	runtime.RegisterRuntimeServiceServer(s, service)
	images := &imageService{images: d.Images, root: d.Layout.Images(), handlers: d.Handlers}
	runtime.RegisterImageServiceServer(s, images)
	s.RegisterService(&importDesc, images)
	return &Server{grpc: s, service: service}, nil
}

// Serve answers calls on l until ctx ends. It then lets calls in flight finish for a few seconds,
// cancels what is left, waits for it, and returns nil. It closes l. It may be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ended := make(chan error, 1)
	go func() { ended <- s.grpc.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve CRI: %w", err)
	case <-ctx.Done():
	}
	close(s.service.ending)
	defer s.service.senders.Wait()
	hurry := time.AfterFunc(drainLimit, s.grpc.Stop)
	s.grpc.GracefulStop()
	if !hurry.Stop() {
		s.grpc.Stop() // waits for the one that is running already
	}
	if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve CRI: %w", err)
	}
	return nil
}

// runtimeService is the RuntimeService of the CRI.
type runtimeService struct {
	runtime.UnimplementedRuntimeServiceServer
	Deps
	config  string         // JSON
	ending  chan struct{}  // closed when the server ends: streams that would last for ever end then
	senders sync.WaitGroup // of events
}
