package criserver

import (
	"context"
	"fmt"
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

func TestCheckpoints(t *testing.T) {
	w := busyWorld(t)
	one, two := string(w.pods.containers[0].ID), string(w.pods.containers[1].ID)
	for _, c := range []struct {
		id, location string
		timeout      int64
		want         codes.Code
		text         string
	}{
		{one, "x.tar", 0, codes.InvalidArgument, "location"}, {one, "/a/../x.tar", 0, codes.InvalidArgument, "location"},
		{one, "/x.tar", -1, codes.InvalidArgument, "timeout"}, {"ffff", "/x.tar", 0, codes.NotFound, ""},
	} {
		_, err := w.CheckpointContainer(t.Context(), &runtime.CheckpointContainerRequest{ContainerId: c.id, Location: c.location, Timeout: c.timeout})
		wantCode(t, err, c.want, c.text)
	}
	if _, err := w.CheckpointContainer(t.Context(), &runtime.CheckpointContainerRequest{ContainerId: one, Location: "/x.tar"}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), drainLimit)
	defer cancel()
	for text, r := range map[string]*runtime.CheckpointPodRequest{
		"each id once":          {OutputPath: "/d", ContainerIds: []string{one, one}},
		"container_ids is miss": {OutputPath: "/d"},
		"container_ids[0]":      {OutputPath: "/d", ContainerIds: []string{"../x"}},
		"output_path":           {OutputPath: "d", ContainerIds: []string{one, two}},
		`options "leave": want`: {OutputPath: "/d", ContainerIds: []string{one, two}, Options: map[string]string{"leave": "1"}},
	} {
		r.PodSandboxId = string(testID)
		_, err := w.CheckpointPod(ctx, r)
		wantCode(t, err, codes.InvalidArgument, text)
	}
	whole := &runtime.CheckpointPodRequest{PodSandboxId: string(testID), OutputPath: "/d/", ContainerIds: []string{one, two}}
	_, err := w.CheckpointPod(t.Context(), whole)
	wantCode(t, err, codes.InvalidArgument, "deadline")
	if _, err := w.CheckpointPod(ctx, whole); err != nil {
		t.Error(err)
	}
	want := fmt.Sprintf("checkpoint %s /x.tar; checkpointp %s [%s %s] /d", one, testID, one, two)
	if got := w.pods.called(); got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
}

// The timeout of a request ends its work, and says so.
func TestCheckpointTimeout(t *testing.T) {
	w := busyWorld(t)
	w.pods.block = make(chan struct{})
	_, err := w.CheckpointContainer(t.Context(), &runtime.CheckpointContainerRequest{ContainerId: string(w.pods.containers[0].ID), Location: "/x.tar", Timeout: 1})
	wantCode(t, err, codes.DeadlineExceeded, "")
}

func TestRestorePod(t *testing.T) {
	w := busyWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), drainLimit)
	defer cancel()
	request := func(change func(*runtime.RestorePodRequest)) *runtime.RestorePodRequest {
		r := &runtime.RestorePodRequest{
			CheckpointPath: "/d", Config: sandboxRequest().GetConfig(), ContainerConfigs: []*runtime.ContainerConfig{containerConfig()},
		}
		change(r)
		return r
	}
	for text, change := range map[string]func(*runtime.RestorePodRequest){
		"runtime_handler":        func(r *runtime.RestorePodRequest) { r.RuntimeHandler = "no-such" },
		"checkpoint_path":        func(r *runtime.RestorePodRequest) { r.CheckpointPath = "d" },
		"options":                func(r *runtime.RestorePodRequest) { r.Options = map[string]string{"x": ""} },
		"container_configs is m": func(r *runtime.RestorePodRequest) { r.ContainerConfigs = nil },
		"each name once":         func(r *runtime.RestorePodRequest) { r.ContainerConfigs = append(r.ContainerConfigs, containerConfig()) },
		"container_configs[0]: ": func(r *runtime.RestorePodRequest) { r.ContainerConfigs[0].LogPath = "/abs" },
	} {
		_, err := w.RestorePod(ctx, request(change))
		wantCode(t, err, codes.InvalidArgument, text)
	}
	r := request(func(*runtime.RestorePodRequest) {})
	_, err := w.RestorePod(t.Context(), r)
	wantCode(t, err, codes.InvalidArgument, "deadline")
	resp, err := w.RestorePod(ctx, r)
	if err != nil || resp.GetPodSandboxId() != string(testID) || resp.GetRestoredContainers()[0].GetContainerId() != "one" {
		t.Errorf("restored: %v, %v", resp, err)
	}
}
