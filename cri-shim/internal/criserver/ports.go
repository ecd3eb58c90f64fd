package criserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/stats"
)

// Sandboxes runs the operations on sandboxes. Lookups accept a unique beginning of an id.
type Sandboxes interface {
	RunSandbox(context.Context, pod.SandboxConfig) (pod.ID, error)
	StopSandbox(ctx context.Context, id string) error   // nil when absent
	RemoveSandbox(ctx context.Context, id string) error // nil when absent
	Sandbox(id string) (pod.Sandbox, error)
	Sandboxes() []pod.Sandbox
}

// Containers runs the operations that change containers.
type Containers interface {
	CreateContainer(ctx context.Context, sandbox string, c pod.ContainerConfig) (pod.ID, error)
	StartContainer(ctx context.Context, id string) error
	StopContainer(ctx context.Context, id string, grace time.Duration) error // nil when absent
	RemoveContainer(ctx context.Context, id string) error                    // nil when absent
}

// ContainerView looks at containers and works inside them.
type ContainerView interface {
	Container(id string) (pod.Container, error)
	Containers() []pod.Container
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (pod.ExecResult, error)
	ReopenLog(ctx context.Context, id string) error
}

// Checkpoints makes checkpoints of what runs, and pods of checkpoints. All end with their context.
type Checkpoints interface {
	CheckpointContainer(ctx context.Context, id, location string) error
	CheckpointPod(ctx context.Context, id string, containers []pod.ID, dir string) error
	RestorePod(ctx context.Context, dir string, cfg pod.SandboxConfig, containers []pod.ContainerConfig) (pod.ID, []pod.Restored, error)
}

// Resources changes the limits of what was made already. Zero fields and nil stay as they are.
type Resources interface {
	// UpdateContainer sets all of it or, with an error, nothing.
	UpdateContainer(ctx context.Context, id string, change pod.Resources) error
	UpdateSandbox(ctx context.Context, id string, overhead, resources *pod.Resources) error
}

// Stats measures what containers and sandboxes use. What is gone is errdefs.ErrNotFound. No call waits for
// anything but the kernel.
type Stats interface {
	Container(pod.Container) (stats.Container, error)
	// Layer is nil before the first measurement.
	Layer(pod.Container) *stats.Layer
	Details(pod.Container) (stats.Details, error)
	// Sandbox is told the sandbox's running containers, and whether no other has its cgroup parent.
	Sandbox(s pod.Sandbox, running []pod.Container, alone bool) (stats.Sandbox, error)
	FileSystem() (stats.FileSystem, error)
}

// Events tells what happens to containers and sandboxes.
type Events interface {
	// Subscribe returns what happens from now on, until cancel. A subscriber that does not keep up gets no
	// more: lost is closed then.
	Subscribe() (events <-chan pod.Event, lost <-chan struct{}, cancel func())
}

// Images is the store of local images. A ref is a name, a tag, a digest, an id or the unique
// beginning of one.
type Images interface {
	// Pull returns the id of the image. Its errors may be ErrRegistryUnavailable or ErrSignature.
	Pull(ctx context.Context, ref string, c Credentials) (id string, err error)
	// Import takes in the images of a tar archive, all or none, and returns their ids by name. name is for the only one
	// of an archive, "" to keep the names in it.
	Import(ctx context.Context, archive io.Reader, name string) (map[string]string, error)
	List(context.Context) ([]Image, error)
	// Find is errdefs.ErrNotFound when there is none.
	Find(ctx context.Context, ref string) (Image, error)
	// Remove forgets an image with all its names; absent is success.
	Remove(ctx context.Context, ref string) error
	Usage(context.Context) (FSUsage, error)
}

// Network is what a status has to know of the pod network. No call waits for a plugin.
type Network interface {
	// Ready is nil when pods can be attached; the error is shown to the node's administrator.
	Ready() error
	// SetPodCIDR takes the ranges given to this node; nothing to do is success.
	SetPodCIDR(cidrs string) error
	// Checked is how the last check of a sandbox's network went; false when there was none.
	Checked(pod.ID) (pod.NetworkCheck, bool)
}

// Image is one local image under all its names.
type Image struct {
	ID      string // "sha256:…", the same in every answer
	Tags    []string
	Digests []string
	Size    int64  // bytes
	User    string // USER of its configuration
	Pinned  bool
	Config  json.RawMessage // its configuration, for a verbose status; may be empty
}

// Credentials are for one pull. Server is empty or the registry they may be shown to.
type Credentials struct {
	Username, Password string
	Server             string
	IdentityToken      string // OAuth2 refresh token
	RegistryToken      string // bearer token
}

// FSUsage is what images take on their file system.
type FSUsage struct {
	Time       time.Time
	MountPoint string
	Bytes      uint64
	Inodes     uint64
}

// Classes of errors that have a meaning of their own to the kubelet.
var (
	ErrRegistryUnavailable = errors.New("registry unavailable")
	ErrSignature           = errors.New("signature validation failed")
)
