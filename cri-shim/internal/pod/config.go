package pod

import (
	"net/netip"
	"time"
)

// ID is the 64 hexadecimal digits that name a sandbox or a container for its whole life.
type ID string

// SandboxConfig is what a caller asked of a sandbox. It is validated by its maker, kept
// verbatim in the record, and never changed afterwards.
type SandboxConfig struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	UID       string `json:"uid"`
	Attempt   uint32 `json:"attempt"`

	Handler      string            `json:"handler,omitempty"` // OCI runtime handler; "" is the default one
	Hostname     string            `json:"hostname,omitempty"`
	LogDirectory string            `json:"logDirectory,omitempty"` // absolute or empty
	DNS          *DNS              `json:"dns,omitempty"`          // nil: the host's resolv.conf; empty: an empty file
	Ports        []PortMapping     `json:"ports,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	CgroupParent string            `json:"cgroupParent,omitempty"`
	Sysctls      map[string]string `json:"sysctls,omitempty"`
	Namespaces   Namespaces        `json:"namespaces"`
	Privileged   bool              `json:"privileged,omitempty"`
	// Security holds the pod level defaults of the sandbox's own init; containers bring theirs.
	Security Security `json:"security"`
	// Overhead and Resources are what the pod begins with; the record has fields of its own for them.
	Overhead  *Resources `json:"-"`
	Resources *Resources `json:"-"`
}

// Namespaces says for each kind of namespace whom it is shared with.
type Namespaces struct {
	Network NamespaceMode `json:"network"`
	PID     NamespaceMode `json:"pid"`
	IPC     NamespaceMode `json:"ipc"`
	// Target is the container whose PID namespace is joined when PID is ModeTarget.
	Target ID `json:"target,omitempty"`
	// User is the pod's user namespace; nil is the host's.
	User *UserNamespace `json:"user,omitempty"`
}

// NamespaceMode is the sharing of one namespace, in the words of the CRI.
type NamespaceMode string

// The namespace modes of the CRI.
const (
	ModePod       NamespaceMode = "pod"
	ModeContainer NamespaceMode = "container"
	ModeNode      NamespaceMode = "node"
	ModeTarget    NamespaceMode = "target"
)

// DNS is the content of a pod's resolv.conf.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// PortMapping publishes a container port on the host. HostPort 0 publishes nothing.
type PortMapping struct {
	Protocol      string `json:"protocol"` // tcp, udp or sctp
	ContainerPort int32  `json:"containerPort"`
	HostPort      int32  `json:"hostPort,omitempty"`
	HostIP        string `json:"hostIP,omitempty"`
}

// ContainerConfig is what a caller asked of a container; see SandboxConfig.
type ContainerConfig struct {
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt"`

	Image              string            `json:"image"`                        // the reference or id given to resolve
	UserSpecifiedImage string            `json:"userSpecifiedImage,omitempty"` // as the pod's author wrote it
	Command            []string          `json:"command,omitempty"`            // replaces the image's entrypoint and command
	Args               []string          `json:"args,omitempty"`               // replaces the image's command
	WorkingDir         string            `json:"workingDir,omitempty"`
	Env                []EnvVar          `json:"env,omitempty"`
	Mounts             []Mount           `json:"mounts,omitempty"`
	Devices            []Device          `json:"devices,omitempty"`
	CDIDevices         []string          `json:"cdiDevices,omitempty"` // vendor.com/class=name
	Labels             map[string]string `json:"labels,omitempty"`
	Annotations        map[string]string `json:"annotations,omitempty"`
	LogPath            string            `json:"logPath,omitempty"` // relative to the sandbox's log directory
	Stdin              bool              `json:"stdin,omitempty"`
	StdinOnce          bool              `json:"stdinOnce,omitempty"`
	TTY                bool              `json:"tty,omitempty"`
	StopSignal         string            `json:"stopSignal,omitempty"` // e.g. "SIGUSR1"; empty: the image's, else SIGTERM

	Namespaces Namespaces `json:"namespaces"`
	Privileged bool       `json:"privileged,omitempty"`
	Security   Security   `json:"security"`
	Resources  Resources  `json:"resources"`
}

// EnvVar is one variable; the value may be any bytes but NUL.
type EnvVar struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// Mount is one volume of a container. Both paths are kept as given, because a status must
// echo them verbatim.
type Mount struct {
	ContainerPath     string      `json:"containerPath"`
	HostPath          string      `json:"hostPath"`
	Readonly          bool        `json:"readonly,omitempty"`
	RecursiveReadonly bool        `json:"recursiveReadonly,omitempty"`
	SELinuxRelabel    bool        `json:"selinuxRelabel,omitempty"`
	Propagation       Propagation `json:"propagation,omitempty"` // empty: private
	// Image is a reference to an image that is mounted in the place of HostPath; SubPath is a path in it.
	Image   string `json:"image,omitempty"`
	SubPath string `json:"subPath,omitempty"`
	// UIDs and GIDs are the ID mapping of the mount; empty: files keep the owners that they have on the host.
	UIDs []IDMapping `json:"uids,omitempty"`
	GIDs []IDMapping `json:"gids,omitempty"`
	// Options are of noexec, nodev and nosuid.
	Options []string `json:"options,omitempty"`
}

// Propagation of a mount, in the words of mount_namespaces(7).
type Propagation string

// The propagations of the CRI.
const (
	PropagationPrivate Propagation = "private" // PRIVATE
	PropagationSlave   Propagation = "slave"   // HOST_TO_CONTAINER
	PropagationShared  Propagation = "shared"  // BIDIRECTIONAL
)

// Device is a host device node, or a directory of them, to make available.
type Device struct {
	ContainerPath string `json:"containerPath"`
	HostPath      string `json:"hostPath"`
	Permissions   string `json:"permissions"` // a subset of "rwm"
}

// Security is the security context of a sandbox or a container.
type Security struct {
	RunAsUser          *int64       `json:"runAsUser,omitempty"` // 0 … 2³¹-1
	RunAsGroup         *int64       `json:"runAsGroup,omitempty"`
	RunAsUsername      string       `json:"runAsUsername,omitempty"`
	SupplementalGroups []int64      `json:"supplementalGroups,omitempty"`
	StrictGroups       bool         `json:"strictGroups,omitempty"` // supplementalGroupsPolicy: Strict
	AddCapabilities    []string     `json:"addCapabilities,omitempty"`
	DropCapabilities   []string     `json:"dropCapabilities,omitempty"`
	AmbientCaps        []string     `json:"ambientCapabilities,omitempty"`
	NoNewPrivileges    bool         `json:"noNewPrivileges,omitempty"`
	ReadonlyRootfs     bool         `json:"readonlyRootfs,omitempty"`
	MaskedPaths        []string     `json:"maskedPaths,omitempty"`
	ReadonlyPaths      []string     `json:"readonlyPaths,omitempty"`
	Seccomp            Profile      `json:"seccomp"`
	AppArmor           Profile      `json:"apparmor"`
	SELinux            SELinuxLabel `json:"selinux"`
}

// Profile names a seccomp or AppArmor profile.
type Profile struct {
	Kind ProfileKind `json:"kind,omitempty"`
	Ref  string      `json:"ref,omitempty"` // ProfileLocalhost: a file (seccomp) or a loaded profile (AppArmor)
}

// ProfileKind says where a profile comes from. The zero value means none was asked for.
type ProfileKind string

// The profile kinds of the CRI.
const (
	ProfileUnset      ProfileKind = ""
	ProfileDefault    ProfileKind = "runtime/default"
	ProfileUnconfined ProfileKind = "unconfined"
	ProfileLocalhost  ProfileKind = "localhost"
)

// SELinuxLabel is an SELinux context, each part optional.
type SELinuxLabel struct {
	User  string `json:"user,omitempty"`
	Role  string `json:"role,omitempty"`
	Type  string `json:"type,omitempty"`
	Level string `json:"level,omitempty"`
}

// Resources limits a container. Zero means not limited, or unchanged in an update.
type Resources struct {
	CPUPeriod    int64             `json:"cpuPeriod,omitempty"` // µs
	CPUQuota     int64             `json:"cpuQuota,omitempty"`  // µs per period; -1: no limit
	CPUShares    int64             `json:"cpuShares,omitempty"`
	MemoryLimit  int64             `json:"memoryLimit,omitempty"` // bytes
	MemorySwap   int64             `json:"memorySwap,omitempty"`  // bytes of memory and swap together
	OOMScoreAdj  int64             `json:"oomScoreAdj,omitempty"`
	CpusetCPUs   string            `json:"cpusetCPUs,omitempty"`
	CpusetMems   string            `json:"cpusetMems,omitempty"`
	HugepageCaps map[string]uint64 `json:"hugepageLimits,omitempty"` // page size ("2MB") → bytes
	Unified      map[string]string `json:"unified,omitempty"`        // cgroup v2 file → value
}

// NetworkResult is what a network gave a sandbox.
type NetworkResult struct {
	// IPs are the addresses of eth0; the first one is the pod's.
	IPs []netip.Addr `json:"ips,omitempty"`
}

// NetworkCheck is what became of looking whether a sandbox's network is still as it was made.
type NetworkCheck struct {
	At       time.Time `json:"at"`              // of the last check
	Since    time.Time `json:"since"`           // since when the result is the same
	Fault    string    `json:"fault,omitempty"` // what is wrong; empty: nothing
	Checks   uint64    `json:"checks"`
	Failures uint64    `json:"failures"`
}

// Exit is the end of a container's first process.
type Exit struct {
	Code       int32     `json:"code"` // 0…255; 128+n when signal n ended it
	Signal     int32     `json:"signal,omitempty"`
	OOMKilled  bool      `json:"oomKilled,omitempty"`
	Lost       bool      `json:"lost,omitempty"` // nobody saw the end: Code is 255
	FinishedAt time.Time `json:"finishedAt"`
}
