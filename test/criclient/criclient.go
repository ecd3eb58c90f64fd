// Package criclient starts and removes pods over the CRI of any runtime, the way a kubelet does.
package criclient

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Client speaks to one runtime.
type Client struct {
	runtime.RuntimeServiceClient
	Images       runtime.ImageServiceClient
	CgroupParent string // of the pods that Start makes

	conn *grpc.ClientConn
}

// Dial connects to the socket at path when the first call is made.
func Dial(path, cgroupParent string) (*Client, error) {
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return nil, err
	}
	return &Client{runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn), cgroupParent, conn}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Pull fetches images.
func (c *Client) Pull(ctx context.Context, refs ...string) error {
	for _, ref := range refs {
		if _, err := c.Images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}}); err != nil {
			return fmt.Errorf("pull %s: %w", ref, err)
		}
	}
	return nil
}

// Pod is a sandbox with one running container.
type Pod struct{ Sandbox, Container string }

// Spec is what a pod is made of. Ports and Annotations may be nil.
type Spec struct {
	Name, Image string
	Command     []string
	Ports       []*runtime.PortMapping
	Annotations map[string]string
}

// Start runs a sandbox, and creates and starts a container with a PID namespace of its own in it. What was
// made is returned beside an error too.
func (c *Client) Start(ctx context.Context, s Spec) (p Pod, err error) {
	own := &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
	cfg := &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: s.Name, Namespace: "test", Uid: "uid-" + s.Name}, Hostname: s.Name,
		PortMappings: s.Ports, Annotations: s.Annotations,
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: c.CgroupParent, SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: own},
		},
	}
	sandbox, err := c.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		return p, fmt.Errorf("run sandbox %s: %w", s.Name, err)
	}
	p.Sandbox = sandbox.GetPodSandboxId()
	made, err := c.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.Sandbox, SandboxConfig: cfg, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "main"}, Image: &runtime.ImageSpec{Image: s.Image}, Command: s.Command,
		Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: own}},
	}})
	if err != nil {
		return p, fmt.Errorf("create container of %s: %w", s.Name, err)
	}
	p.Container = made.GetContainerId()
	if _, err := c.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: p.Container}); err != nil {
		return p, fmt.Errorf("start container of %s: %w", s.Name, err)
	}
	return p, nil
}

// Remove does what a kubelet does at the end of a pod, without its grace.
func (c *Client) Remove(ctx context.Context, p Pod) error {
	if p.Container != "" {
		if _, err := c.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: p.Container}); err != nil {
			return fmt.Errorf("stop container: %w", err)
		}
	}
	if _, err := c.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.Sandbox}); err != nil {
		return fmt.Errorf("stop sandbox: %w", err)
	}
	if p.Container != "" {
		if _, err := c.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: p.Container}); err != nil {
			return fmt.Errorf("remove container: %w", err)
		}
	}
	if _, err := c.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.Sandbox}); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	return nil
}

// IP is the first address of a pod.
func (c *Client) IP(ctx context.Context, p Pod) (string, error) {
	st, err := c.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: p.Sandbox})
	if err != nil {
		return "", fmt.Errorf("status of sandbox: %w", err)
	}
	return st.GetStatus().GetNetwork().GetIp(), nil
}

// Exec runs a command in a pod and returns what it wrote; another exit code than 0 is an error.
func (c *Client) Exec(ctx context.Context, p Pod, cmd ...string) (string, error) {
	r, err := c.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: p.Container, Cmd: cmd})
	if err != nil {
		return "", fmt.Errorf("exec %v: %w", cmd, err)
	}
	if r.GetExitCode() != 0 {
		return "", fmt.Errorf("exec %v: exit code %d: %s", cmd, r.GetExitCode(), r.GetStderr())
	}
	return string(r.GetStdout()), nil
}
