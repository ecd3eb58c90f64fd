// Package checkpoint writes checkpoints of containers and pods, and unpacks them again. An archive has the members that
// containerd and CRI-O write and checkpointctl reads; a pod's checkpoint is a directory of such archives. CRIU does the
// processes, below the OCI runtime and by way of cri-monitor; here are the file systems, the metadata and the checks.
//
// What comes from an archive is never used as configuration: a restored container is made from the request, and the
// archive's own specification is only compared with that.
//
// Crash story: an archive has no name until it is complete. Frozen containers are thawed by the monitor, and what was
// on its way into an archive is in the container's directory, where Clean finds it.
package checkpoint
