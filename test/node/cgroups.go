package node

import "strings"

// DriverVariable is the environment variable that names the cgroup driver of every node: cgroupfs, where it is
// empty, or systemd, which must be process 1.
const DriverVariable = "PODWRIGHT_CGROUP_DRIVER"

func (n *Node) systemd() bool { return n.driver == "systemd" }

// CgroupChild names a parent of pods below the node's own: as requests name it, and as a path below the mount points.
func (n *Node) CgroupChild(name string) (parent, path string) {
	if !n.systemd() {
		parent = n.CgroupParent + "/" + name
		return parent, parent
	}
	parent = strings.TrimSuffix(n.CgroupParent, ".slice") + "-" + name + ".slice"
	return parent, "/" + n.CgroupParent + "/" + parent
}

// ContainerCgroup is the path, below the mount points, of the cgroup of a container in the node's own parent.
func (n *Node) ContainerCgroup(id string) string {
	if !n.systemd() {
		return n.CgroupParent + "/" + id
	}
	return "/" + n.CgroupParent + "/cri-shim-" + id + ".scope"
}
