package criserver

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// received reads a stream to its end and counts its messages.
func received[M, T any](t *testing.T, stream interface{ Recv() (M, error) }, err error, items func(M) []T) (all []T, messages int) {
	t.Helper()
	for err == nil {
		var m M
		if m, err = stream.Recv(); err == nil {
			messages++
			if len(items(m)) == 0 {
				t.Error("an empty message")
			}
			all = append(all, items(m)...)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	return all, messages
}

func TestStreamsOfNothing(t *testing.T) {
	w := started(t)
	ctx := t.Context()
	sandboxes, err := w.StreamPodSandboxes(ctx, &runtime.StreamPodSandboxesRequest{})
	_, n1 := received(t, sandboxes, err, (*runtime.StreamPodSandboxesResponse).GetPodSandboxes)
	containers, err := w.StreamContainers(ctx, &runtime.StreamContainersRequest{})
	_, n2 := received(t, containers, err, (*runtime.StreamContainersResponse).GetContainers)
	stats, err := w.StreamContainerStats(ctx, &runtime.StreamContainerStatsRequest{})
	_, n3 := received(t, stats, err, (*runtime.StreamContainerStatsResponse).GetContainerStats)
	podStats, err := w.StreamPodSandboxStats(ctx, &runtime.StreamPodSandboxStatsRequest{})
	_, n4 := received(t, podStats, err, (*runtime.StreamPodSandboxStatsResponse).GetPodSandboxStats)
	metrics, err := w.StreamPodSandboxMetrics(ctx, &runtime.StreamPodSandboxMetricsRequest{})
	_, n5 := received(t, metrics, err, (*runtime.StreamPodSandboxMetricsResponse).GetPodSandboxMetrics)
	images, err := w.images.StreamImages(ctx, &runtime.StreamImagesRequest{})
	_, n6 := received(t, images, err, (*runtime.StreamImagesResponse).GetImages)
	if n := n1 + n2 + n3 + n4 + n5 + n6; n != 0 {
		t.Errorf("%d messages of nothing", n)
	}
}

// manyContainers are more than fit into one message of any kind.
func manyContainers(n int) []pod.Container {
	out := make([]pod.Container, n)
	for i := range out {
		out[i] = pod.Container{
			ID: pod.ID(fmt.Sprintf("%064x", i)), SandboxID: testID, State: pod.Running, CgroupPath: "/x",
			Config: pod.ContainerConfig{
				Name: "c", Labels: map[string]string{"odd": fmt.Sprint(i % 2)}, Annotations: map[string]string{"a": strings.Repeat("x", 100<<10)},
			},
		}
	}
	return out
}

func TestStreamsInParts(t *testing.T) {
	const n = 300 // 30 MB: more than a client takes in one message
	w := podWorld(t)
	w.pods.containers = manyContainers(n)
	ctx := t.Context()
	containers, err := w.StreamContainers(ctx, &runtime.StreamContainersRequest{})
	all, messages := received(t, containers, err, (*runtime.StreamContainersResponse).GetContainers)
	ids := make([]string, len(all))
	for i, c := range all {
		ids[i] = c.GetId()
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != n || len(all) != n || messages < 30 || messages == n {
		t.Errorf("%d of %d containers in %d messages", len(all), n, messages)
	}
	filter := &runtime.ContainerStatsFilter{LabelSelector: map[string]string{"odd": "1"}}
	stats, err := w.StreamContainerStats(ctx, &runtime.StreamContainerStatsRequest{Filter: filter})
	if all, messages := received(t, stats, err, (*runtime.StreamContainerStatsResponse).GetContainerStats); len(all) != n/2 || messages < 15 {
		t.Errorf("stats of %d containers in %d messages", len(all), messages)
	}
	sandboxes, err := w.StreamPodSandboxes(ctx, &runtime.StreamPodSandboxesRequest{Filter: &runtime.PodSandboxFilter{Id: string(testID)}})
	if all, _ := received(t, sandboxes, err, (*runtime.StreamPodSandboxesResponse).GetPodSandboxes); len(all) != 1 || all[0].GetId() != string(testID) {
		t.Errorf("got %v", all)
	}
	w.store.images = []Image{{ID: imageID, Tags: []string{"a:1"}}, {ID: "sha256:" + strings.Repeat("34", 32)}}
	images, err := w.images.StreamImages(ctx, &runtime.StreamImagesRequest{})
	if all, messages := received(t, images, err, (*runtime.StreamImagesResponse).GetImages); len(all) != 2 || messages != 1 {
		t.Errorf("got %v", all)
	}
}
