package criserver

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// GetContainerEvents sends what happens until the caller leaves. A caller that does not read is cut off with
// ResourceExhausted, so that it costs no more than a bounded queue; it may ask again.
func (s *runtimeService) GetContainerEvents(_ *runtime.GetEventsRequest, stream grpc.ServerStreamingServer[runtime.ContainerEventResponse]) error {
	events, lost, cancel := s.Events.Subscribe()
	defer cancel()
	// A caller that does not read blocks Send. Only the end of this handler, which ends the stream, gets it
	// back: so it is on a goroutine of its own, for which the server waits at its end.
	sent := make(chan error, 1)
	stop := make(chan struct{})
	defer close(stop)
	s.senders.Go(func() { sent <- sendAll(stream, events, stop) })
	select {
	case err := <-sent:
		return err
	case <-lost:
		return fmt.Errorf("events were not read and have been dropped; list, and ask for events again: %w", errdefs.ErrResourceExhausted)
	case <-s.ending:
		return fmt.Errorf("cri-shim ends: %w", errdefs.ErrUnavailable)
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

func sendAll(stream grpc.ServerStreamingServer[runtime.ContainerEventResponse], events <-chan pod.Event, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		case e := <-events:
			if err := stream.Send(eventOut(e)); err != nil {
				return err
			}
		}
	}
}

var eventKindOut = map[pod.EventKind]runtime.ContainerEventType{
	pod.EventCreated: runtime.ContainerEventType_CONTAINER_CREATED_EVENT,
	pod.EventStarted: runtime.ContainerEventType_CONTAINER_STARTED_EVENT,
	pod.EventStopped: runtime.ContainerEventType_CONTAINER_STOPPED_EVENT,
	pod.EventDeleted: runtime.ContainerEventType_CONTAINER_DELETED_EVENT,
}

// eventOut tells of a sandbox as of a container with the sandbox's id, as containerd does.
func eventOut(e pod.Event) *runtime.ContainerEventResponse {
	out := &runtime.ContainerEventResponse{
		ContainerId:        string(e.ID),
		ContainerEventType: eventKindOut[e.Kind],
		CreatedAt:          e.At.UnixNano(),
		PodSandboxStatus:   sandboxStatusOut(e.Sandbox),
	}
	for _, c := range e.Containers {
		out.ContainersStatuses = append(out.ContainersStatuses, containerStatusOut(c))
	}
	return out
}
