package crishim

import (
	"fmt"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkCalls measures the calls that a kubelet repeats all day, over the socket, with 60 pods of one running
// container each.
func BenchmarkCalls(b *testing.B) {
	const pods = 60
	f := newFixture(b)
	sandboxes := make([]string, pods)
	for i := range pods {
		sandboxes[i] = f.sandboxOf(fmt.Sprintf("pod-%d", i))
		f.started(f.container(sandboxes[i], "main", "/bin/sleep", "10000"))
	}
	for _, call := range []struct {
		name string
		make func() (items int, err error)
	}{
		{"ListPodSandbox", func() (int, error) {
			r, err := f.ListPodSandbox(b.Context(), &runtime.ListPodSandboxRequest{})
			return len(r.GetItems()), err
		}},
		{"ListContainers", func() (int, error) {
			r, err := f.ListContainers(b.Context(), &runtime.ListContainersRequest{})
			return len(r.GetContainers()), err
		}},
		{"ListContainerStats", func() (int, error) {
			r, err := f.ListContainerStats(b.Context(), &runtime.ListContainerStatsRequest{})
			return len(r.GetStats()), err
		}},
		{"ListPodSandboxStats", func() (int, error) {
			r, err := f.ListPodSandboxStats(b.Context(), &runtime.ListPodSandboxStatsRequest{})
			return len(r.GetStats()), err
		}},
		{"ListPodSandboxMetrics", func() (int, error) {
			r, err := f.ListPodSandboxMetrics(b.Context(), &runtime.ListPodSandboxMetricsRequest{})
			return len(r.GetPodMetrics()), err
		}},
	} {
		b.Run(call.name, func(b *testing.B) {
			for b.Loop() {
				if n, err := call.make(); err != nil || n != pods {
					b.Fatalf("%d items, %v", n, err)
				}
			}
		})
	}
	for _, id := range sandboxes[1:] {
		if _, err := f.RemovePodSandbox(b.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			b.Error(err)
		}
	}
	f.removeAll(sandboxes[0])
}
