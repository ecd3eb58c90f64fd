package pod

import (
	"context"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Errors of all ports are classed by github.com/containerd/errdefs, so that errors.Is tells
// ErrNotFound, ErrInvalidArgument, ErrFailedPrecondition, ErrUnavailable, ErrNotImplemented
// and context.DeadlineExceeded apart through every wrapping.

// Store keeps records. A Put is complete before it is visible; a crash of the process loses nothing.
type Store interface {
	PutSandbox(Sandbox) error
	PutContainer(Container) error
	// DeleteSandbox and DeleteContainer forget; absent is success.
	DeleteSandbox(ID) error
	DeleteContainer(sandbox, id ID) error
	// Load reads everything. A record that cannot be trusted is set aside, named in bad, and
	// never ends the load.
	Load() (sandboxes []Sandbox, containers []Container, bad []error, err error)
}

// Image is a local image, ready to be mounted.
type Image struct {
	ID      string   // "sha256:…" of the image's configuration
	Digests []string // docker.io/library/x@sha256:…: what it was pulled as, in every repository it has
	Layers  []string // unpacked layer directories, the lowest first
	Config  imagespec.ImageConfig
}

// Images finds local images and keeps the ones in use on disk.
type Images interface {
	// Acquire finds an image by id, short id, name, tag or digest, else errdefs.ErrNotFound, and
	// holds its layers for owner from the same moment on. It is repeatable.
	Acquire(ref string, owner ID) (Image, error)
	// Release ends the hold of owner; absent is success.
	Release(imageID string, owner ID) error
}

// Attachment names one sandbox's place in a network.
type Attachment struct {
	ID        ID
	Namespace string
	Name      string
	UID       string
	NetNS     string // path; "" when the namespace is gone (another boot)

	Ports        []PortMapping
	DNS          *DNS
	Annotations  map[string]string
	CgroupParent string
}

// Network attaches sandboxes. Both calls may be repeated.
type Network interface {
	Attach(context.Context, Attachment) (NetworkResult, error)
	// Detach gives everything back, even after an Attach that failed half-way; absent is success.
	Detach(context.Context, Attachment) error
}

// Pinner pins the namespaces of a sandbox as files, so that no process has to hold them.
type Pinner interface {
	// Pin makes and pins the network, IPC and UTS namespaces that the sandbox needs, sets the
	// hostname and the sysctls in them and brings lo up. What is pinned already is kept.
	Pin(context.Context, Sandbox) error
	// PinPID pins the PID namespace of pid for the sandbox.
	PinPID(id ID, pid int) error
	// NetNS is the path of the pinned network namespace, "" when there is none.
	NetNS(ID) string
	// Unpin undoes Pin and PinPID; absent is success.
	Unpin(ID) error
}

// Bundles makes and removes what a container needs on disk before its start.
type Bundles interface {
	// PrepareSandbox makes what containers share: resolv.conf, hosts, hostname, /dev/shm.
	PrepareSandbox(context.Context, Sandbox) error
	// Prepared says whether what PrepareSandbox made is there.
	Prepared(ID) bool
	// PrepareInit writes the bundle of the process that holds a shared PID namespace.
	PrepareInit(context.Context, Sandbox) error
	// Prepare mounts the root file system and writes config.json.
	Prepare(context.Context, Sandbox, Container, ContainerImages) (Effective, string, error)
	// SetLimits writes the limits into config.json and returns what an update of a running container is to
	// be told: linux.resources of the OCI runtime specification, as JSON.
	SetLimits(context.Context, Container, Resources) ([]byte, error)
	// Adjust lets f change the config.json that Prepare wrote, and returns what came of it.
	Adjust(ctx context.Context, c Container, f func(*specs.Spec) error) (Effective, string, error)
	// Unmount takes away the mounts that Prepare made, and nothing else; absent is success.
	Unmount(ctx context.Context, container ID) error
	// Remove undoes Prepare, RemoveSandbox the other two; absent is success.
	Remove(ctx context.Context, sandbox, container ID) error
	RemoveSandbox(context.Context, ID) error
}

// StartSpec is all a monitor needs to run a container whose bundle is complete.
type StartSpec struct {
	ID         ID
	SandboxID  ID
	Bundle     string // directory of config.json
	Handler    string // name of the OCI runtime handler; "" is the default
	CgroupPath string
	LogDir     string // LogPath is below it; of both, links are followed in its parents only
	LogPath    string // absolute; "" discards
	TTY        bool
	Stdin      bool
	StdinOnce  bool
	Restore    string // directory of a checkpoint whose processes go on; "" starts anew
}

// Process is a container's first process as the monitor knows it.
type Process struct {
	ID        ID
	PID       int
	StartedAt time.Time
	Exit      *Exit // nil while it runs
}

// ExecSpec is one command to run inside a running container. The process takes user,
// capabilities and the like from the container.
type ExecSpec struct {
	ID      ID
	Cmd     []string
	Timeout time.Duration // 0: none
}

// ExecResult is the outcome of a command that ended by itself.
type ExecResult struct {
	Stdout, Stderr []byte
	ExitCode       int32
}

// Runtime runs containers. It outlives this process, and so does what it runs.
type Runtime interface {
	// Start runs the container's process. Repeating it for a container that runs returns the same
	// process. A command that cannot be executed is ErrStart.
	Start(context.Context, StartSpec) (Process, error)
	// Signal sends one signal to the first process; gone is success.
	Signal(ctx context.Context, id ID, signal string) error
	// Kill ends every process of the container and returns when none is left; gone is success.
	Kill(context.Context, ID) error
	// Delete makes the runtime forget a container, killing what is left of it; gone is success.
	Delete(context.Context, ID) error
	// Exec runs a command. When the timeout passes, the command and all it started are killed
	// first, and the error is context.DeadlineExceeded.
	Exec(context.Context, ExecSpec) (ExecResult, error)
	// Update changes the limits of a running container to resources, which is linux.resources of the OCI
	// runtime specification as JSON. All of it holds afterwards, or nothing has changed.
	Update(ctx context.Context, id ID, resources []byte) error
	// ReopenLog opens the log file anew after it was renamed. No line is lost.
	ReopenLog(context.Context, ID) error
	// List returns every container that was started and not deleted.
	List(context.Context) ([]Process, error)
	// Watch calls f for each container that has ended, those from before the call first, until
	// ctx ends. It reconnects by itself; f may see an exit more than once.
	Watch(ctx context.Context, f func(ID, Exit)) error
}
