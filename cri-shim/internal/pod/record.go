package pod

import (
	"time"
)

// State is where a sandbox or a container stands. The legal moves are in moves.
type State string

// The states of sandboxes and of containers. Creating, Starting and Removing are intents:
// they are on disk before the work they name begins.
const (
	Creating State = "creating"
	Removing State = "removing"

	Ready    State = "ready"    // sandbox: the network is attached, containers may start
	NotReady State = "notready" // sandbox: stopped, or half torn down; resources may remain

	Created  State = "created" // container: the bundle is complete
	Starting State = "starting"
	Running  State = "running"
	Exited   State = "exited"
)

// Sandbox is the record of a pod sandbox: the intent and the facts.
type Sandbox struct {
	ID        ID            `json:"id"`
	Config    SandboxConfig `json:"config"`
	State     State         `json:"state"`
	CreatedAt time.Time     `json:"createdAt"`
	BootID    string        `json:"bootID"`

	// Attached is set before the network is asked for and cleared when it was given back.
	Attached bool          `json:"attached,omitempty"`
	Network  NetworkResult `json:"network"`
	// Overhead and Resources are the limits of the whole pod, as they were told last; the kubelet applies them.
	Overhead  *Resources `json:"overhead,omitempty"`
	Resources *Resources `json:"resources,omitempty"`
	// InitPID is the process that holds a shared PID namespace; 0 when there is none.
	InitPID int `json:"initPID,omitempty"`
}

// SharesPID says whether the sandbox's containers share one PID namespace of their own.
func (s Sandbox) SharesPID() bool { return s.Config.Namespaces.PID == ModePod }

// HostNetwork says whether the sandbox uses the host's network.
func (s Sandbox) HostNetwork() bool { return s.Config.Namespaces.Network == ModeNode }

// HostIPC says whether the sandbox uses the host's IPC namespace.
func (s Sandbox) HostIPC() bool { return s.Config.Namespaces.IPC == ModeNode }

// Container is the record of a container: the intent and the facts.
type Container struct {
	ID        ID              `json:"id"`
	SandboxID ID              `json:"sandboxID"`
	Config    ContainerConfig `json:"config"`
	State     State           `json:"state"`
	BootID    string          `json:"bootID"`

	ImageID  string `json:"imageID"`            // the one image id that every API shows
	ImageRef string `json:"imageRef,omitempty"` // repository@digest it came from; empty when it has none
	// VolumeImageIDs are the images that it mounts, but for its own.
	VolumeImageIDs []string `json:"volumeImageIDs,omitempty"`

	CreatedAt  time.Time `json:"createdAt"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	PID        int       `json:"pid,omitempty"`
	Effective  Effective `json:"effective"`
	Exit       Exit      `json:"exit,omitzero"`
	Reason     string    `json:"reason,omitempty"`  // Completed, Error, OOMKilled, StartError, Unknown, MonitorLost
	Message    string    `json:"message,omitempty"` // why a start failed
	LogPath    string    `json:"logPath,omitempty"` // absolute; empty: output is discarded
	StopSent   bool      `json:"stopSent,omitempty"`
	TargetPID  int       `json:"targetPID,omitempty"`  // first process of the container whose PID namespace is joined
	CgroupPath string    `json:"cgroupPath,omitempty"` // as in config.json: a path, or slice:prefix:name

	// Restore is a container that goes on from a checkpoint instead of being started anew.
	Restore bool `json:"restore,omitempty"`

	// Updated are the limits after the last UpdateContainer; nil while those of Config hold. Updating are
	// the limits that an update in flight is about to set.
	Updated  *Resources `json:"updated,omitempty"`
	Updating *Resources `json:"updating,omitempty"`
}

// Limits are the limits that hold.
func (c Container) Limits() Resources {
	switch {
	case c.Updated != nil:
		return *c.Updated
	case c.Effective.Limits != nil:
		return *c.Effective.Limits
	}
	return c.Config.Resources
}

// Effective is what the bundle settled on after reading the image and asking the plugins.
type Effective struct {
	UID        uint32   `json:"uid"`
	GID        uint32   `json:"gid"`
	Groups     []uint32 `json:"groups,omitempty"`
	StopSignal string   `json:"stopSignal"` // e.g. "SIGTERM"
	// Limits take the place of those of the request where plugins have changed them.
	Limits *Resources `json:"limits,omitempty"`
}

// moves holds every legal move of State. A record leaves Removing by being forgotten.
var moves = map[State][]State{
	Creating: {Ready, Created, NotReady, Removing},
	Ready:    {NotReady, Removing},
	NotReady: {Removing},
	Created:  {Starting, Exited, Removing},
	Starting: {Running, Exited, Created, Removing},
	Running:  {Exited, Removing},
	Exited:   {Removing},
	Removing: {},
}

// CanMove says whether a record may go from one state to another.
func CanMove(from, to State) bool {
	for _, s := range moves[from] {
		if s == to {
			return true
		}
	}
	return false
}
