package e2e

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestWhatKubeletsRelyOn: an image has one id in every answer; what is asked for twice is made once; a command's child
// that holds its output holds up nobody; and the log of a container that has ended is not made anew.
func TestWhatKubeletsRelyOn(t *testing.T) {
	n := newNode(t)
	conn := n.dial()
	cri, images := runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn)
	ctx := t.Context()

	sandbox := podConfig("relied")
	sandbox.LogDirectory = n.Logs + "/relied"
	sandbox.Linux = &runtime.LinuxPodSandboxConfig{CgroupParent: n.CgroupParent}
	container := containerConfig("main", image, "sleep", "1000")
	container.LogPath = "main.log"
	var pods, containers [2]string
	for i := range 2 {
		p, err := cri.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: sandbox})
		n.must(err)
		pods[i] = p.GetPodSandboxId()
		c, err := cri.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: pods[i], Config: container, SandboxConfig: sandbox})
		n.must(err)
		containers[i] = c.GetContainerId()
	}
	if pods[0] != pods[1] || containers[0] != containers[1] {
		t.Errorf("asked for twice: pods %v, containers %v", pods, containers)
	}
	id := containers[0]
	_, err := cri.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id})
	n.must(err)

	pulled, err := images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: image}})
	n.must(err)
	one, err := images.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: image}})
	n.must(err)
	list, err := images.ListImages(ctx, &runtime.ListImagesRequest{})
	n.must(err)
	listed, err := cri.ListContainers(ctx, &runtime.ListContainersRequest{})
	n.must(err)
	st, err := cri.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	n.must(err)
	for where, got := range map[string]string{
		"ImageStatus": one.GetImage().GetId(), "ListImages": list.GetImages()[0].GetId(),
		"ListContainers": listed.GetContainers()[0].GetImageId(), "ContainerStatus": st.GetStatus().GetImageId(),
	} {
		if got == "" || got != pulled.GetImageRef() {
			t.Errorf("%s: %q, the pull said %q", where, got, pulled.GetImageRef())
		}
	}

	left, err := cri.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "sleep 700 & echo started"}})
	if err != nil || string(left.GetStdout()) != "started\n" {
		t.Errorf("a child that holds the output: %v, %v", left, err)
	}

	_, err = cri.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: id, Timeout: 0})
	n.must(err)
	st, err = cri.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil || st.GetStatus().GetState() != runtime.ContainerState_CONTAINER_EXITED || st.GetStatus().GetFinishedAt() == 0 {
		t.Errorf("right after StopContainer: %v, %v", st, err)
	}
	log := st.GetStatus().GetLogPath()
	n.must(os.Remove(log))
	_, err = cri.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: id})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("ReopenContainerLog of what has ended: %v", err)
	}
	if _, err := os.Stat(log); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the log was made anew: %v", err)
	}
}
