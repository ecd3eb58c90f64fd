package criserver

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func TestEvents(t *testing.T) {
	w := busyWorld(t)
	stream, err := w.GetContainerEvents(t.Context(), &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(77, 5)
	w.events.feed <- pod.Event{
		Kind: pod.EventStopped, ID: w.pods.containers[2].ID, At: at, Sandbox: w.pods.sandboxes[0], Containers: w.pods.containers,
	}
	e, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if e.GetContainerId() != string(w.pods.containers[2].ID) || e.GetContainerEventType() != runtime.ContainerEventType_CONTAINER_STOPPED_EVENT ||
		e.GetCreatedAt() != at.UnixNano() || e.GetPodSandboxStatus().GetMetadata().GetName() == "" || len(e.GetContainersStatuses()) != 3 ||
		e.GetContainersStatuses()[2].GetState() != runtime.ContainerState_CONTAINER_EXITED {
		t.Errorf("got %v", e.GetPodSandboxStatus())
	}
	for kind, want := range map[pod.EventKind]string{
		pod.EventCreated: "CREATED", pod.EventStarted: "STARTED", pod.EventDeleted: "DELETED",
	} {
		w.events.feed <- pod.Event{Kind: kind, ID: testID, Sandbox: w.pods.sandboxes[0]}
		if e, err := stream.Recv(); err != nil || !strings.Contains(e.GetContainerEventType().String(), want) {
			t.Errorf("%s: got %v, %v", kind, e, err)
		}
	}
	close(w.events.lost)
	_, err = stream.Recv()
	wantCode(t, err, codes.ResourceExhausted, "not read")
}

// TestEventsToOneWhoDoesNotRead: its handler ends although a message is stuck on its way, and so does the server.
func TestEventsToOneWhoDoesNotRead(t *testing.T) {
	w := busyWorld(t)
	if _, err := w.GetContainerEvents(t.Context(), &runtime.GetEventsRequest{}); err != nil {
		t.Fatal(err)
	}
	for stuck := false; !stuck; { // events of 300 KiB fill the windows of the connection
		select {
		case w.events.feed <- pod.Event{Kind: pod.EventStopped, ID: testID, Sandbox: w.pods.sandboxes[0], Containers: w.pods.containers}:
		case <-time.After(300 * time.Millisecond):
			stuck = true
		}
	}
	if n := w.events.subscribers.Load(); n != 1 {
		t.Fatalf("%d subscribers", n)
	}
	close(w.events.lost)
	for end := time.Now().Add(10 * time.Second); w.events.subscribers.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the handler does not end")
		}
	}
	begin := time.Now()
	if err := w.stop(); err != nil || time.Since(begin) > 2*drainLimit {
		t.Errorf("Serve: %v after %s", err, time.Since(begin))
	}
}

func TestEventsEndWithTheCallerAndTheServer(t *testing.T) {
	w := busyWorld(t)
	stream, err := w.GetContainerEvents(t.Context(), &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	w.events.feed <- pod.Event{Kind: pod.EventStarted, ID: testID, Sandbox: w.pods.sandboxes[0]}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := w.stop(); err != nil || time.Since(begin) > drainLimit/2 {
		t.Errorf("the stream holds up the end: %v after %s", err, time.Since(begin))
	}
	_, err = stream.Recv()
	wantCode(t, err, codes.Unavailable, "ends")
}
