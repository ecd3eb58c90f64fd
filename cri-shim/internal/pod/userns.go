package pod

import "fmt"

// UserNamespace is the user namespace of a pod: one range of users and one of groups, each with container id 0.
type UserNamespace struct {
	UID IDMapping `json:"uid"`
	GID IDMapping `json:"gid"`
}

// IDMapping gives Length ids from ContainerID on the ids from HostID on (user_namespaces(7)).
type IDMapping struct {
	ContainerID uint32 `json:"containerID"`
	HostID      uint32 `json:"hostID"`
	Length      uint32 `json:"length"`
}

// String is a line of uid_map.
func (m IDMapping) String() string { return fmt.Sprintf("%d %d %d", m.ContainerID, m.HostID, m.Length) }

// Root returns the host's ids of the pod's root: 0 and 0 without a user namespace.
func (s Sandbox) Root() (uid, gid int) {
	if u := s.Config.Namespaces.User; u != nil {
		return int(u.UID.HostID), int(u.GID.HostID)
	}
	return 0, 0
}
