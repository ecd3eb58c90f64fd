package criserver

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestUpdateContainerResources(t *testing.T) {
	w := busyWorld(t)
	id := string(w.pods.containers[0].ID)
	update := func(id string, r *runtime.LinuxContainerResources) error {
		_, err := w.UpdateContainerResources(t.Context(), &runtime.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
		return err
	}
	if err := update(id, &runtime.LinuxContainerResources{CpuShares: 7, Unified: map[string]string{"memory.high": "max"}}); err != nil {
		t.Error(err)
	}
	if got := w.pods.called(); !strings.HasPrefix(got, "update "+id) || !strings.Contains(got, "CPUShares:7") || !strings.Contains(got, "memory.high:max") {
		t.Errorf("called %q", got)
	}
	if err := update(id, nil); err != nil || w.pods.called() != "" {
		t.Errorf("nothing for Linux: %v", err)
	}
	wantCode(t, update(id, &runtime.LinuxContainerResources{CpuShares: -1}), codes.InvalidArgument, "linux.cpu_shares -1")
	wantCode(t, update("", nil), codes.InvalidArgument, "container_id")
	wantCode(t, update("ffff", &runtime.LinuxContainerResources{}), codes.NotFound, "")
}

func TestUpdatePodSandboxResources(t *testing.T) {
	w := busyWorld(t)
	_, err := w.UpdatePodSandboxResources(t.Context(), &runtime.UpdatePodSandboxResourcesRequest{
		PodSandboxId: string(testID), Resources: &runtime.LinuxContainerResources{MemoryLimitInBytes: 9},
	})
	if got := w.pods.called(); err != nil || !strings.HasPrefix(got, "updatep "+string(testID)+" <nil> &{") || !strings.Contains(got, "MemoryLimit:9") {
		t.Errorf("called %q, %v", got, err)
	}
	_, err = w.UpdatePodSandboxResources(t.Context(), &runtime.UpdatePodSandboxResourcesRequest{
		PodSandboxId: string(testID), Overhead: &runtime.LinuxContainerResources{CpusetCpus: "x"},
	})
	wantCode(t, err, codes.InvalidArgument, "overhead.cpuset_cpus")
}

func TestResourcesOfANewSandbox(t *testing.T) {
	w := started(t)
	r := sandboxRequest()
	r.Config.Linux.Overhead = &runtime.LinuxContainerResources{CpuShares: 7}
	r.Config.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 9}
	if _, err := w.RunPodSandbox(t.Context(), r); err != nil || w.pods.ran[0].Overhead.CPUShares != 7 || w.pods.ran[0].Resources.MemoryLimit != 9 {
		t.Errorf("got %+v, %v", w.pods.ran, err)
	}
	r.Config.Linux.Resources.CpusetMems = "x"
	_, err := w.RunPodSandbox(t.Context(), r)
	wantCode(t, err, codes.InvalidArgument, "config.linux.resources.cpuset_mems")
}

func TestCheckpointsAreRefused(t *testing.T) {
	w := busyWorld(t)
	one, two, ended := string(w.pods.containers[0].ID), string(w.pods.containers[1].ID), string(w.pods.containers[2].ID)
	for _, c := range []struct {
		id, location string
		want         codes.Code
		text         string
	}{
		{one, "/x.tar", codes.Unimplemented, "does not make"}, {one, "x.tar", codes.InvalidArgument, "location"},
		{"ffff", "/x.tar", codes.NotFound, ""}, {ended, "/x.tar", codes.FailedPrecondition, "not running"},
	} {
		_, err := w.CheckpointContainer(t.Context(), &runtime.CheckpointContainerRequest{ContainerId: c.id, Location: c.location})
		wantCode(t, err, c.want, c.text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), drainLimit)
	defer cancel()
	for text, c := range map[string]struct {
		r    *runtime.CheckpointPodRequest
		want codes.Code
	}{
		"does not make":         {&runtime.CheckpointPodRequest{OutputPath: "/d", ContainerIds: []string{two, one}}, codes.Unimplemented},
		"each id once":          {&runtime.CheckpointPodRequest{OutputPath: "/d", ContainerIds: []string{one, one}}, codes.InvalidArgument},
		"container_ids is miss": {&runtime.CheckpointPodRequest{OutputPath: "/d"}, codes.InvalidArgument},
		"exactly the running":   {&runtime.CheckpointPodRequest{OutputPath: "/d", ContainerIds: []string{one}}, codes.FailedPrecondition},
		"output_path":           {&runtime.CheckpointPodRequest{OutputPath: "d", ContainerIds: []string{one, two}}, codes.InvalidArgument},
		`options "leave": want`: {&runtime.CheckpointPodRequest{OutputPath: "/d", ContainerIds: []string{one, two}, Options: map[string]string{"leave": "1"}}, codes.InvalidArgument},
	} {
		c.r.PodSandboxId = string(testID)
		_, err := w.CheckpointPod(ctx, c.r)
		wantCode(t, err, c.want, text)
	}
	_, err := w.CheckpointPod(t.Context(), &runtime.CheckpointPodRequest{PodSandboxId: string(testID), OutputPath: "/d", ContainerIds: []string{one, two}})
	wantCode(t, err, codes.InvalidArgument, "deadline")

	restore := &runtime.RestorePodRequest{
		CheckpointPath: "/d", Config: sandboxRequest().GetConfig(), ContainerConfigs: []*runtime.ContainerConfig{containerConfig()},
	}
	_, err = w.RestorePod(t.Context(), restore)
	wantCode(t, err, codes.Unimplemented, "restore")
	restore.RuntimeHandler = "no-such"
	_, err = w.RestorePod(t.Context(), restore)
	wantCode(t, err, codes.InvalidArgument, "runtime_handler")
}
