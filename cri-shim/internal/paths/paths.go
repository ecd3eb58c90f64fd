// Package paths knows where cri-shim and cri-monitor keep things, and nothing else: one place for
// every file name, so that a test, the doctor and recovery look where the work was done.
package paths

import "path/filepath"

// Layout is the two directories that everything lives under: Root survives a reboot
// (/var/lib/cri-shim), State does not (/run/cri-shim).
type Layout struct {
	Root  string
	State string
}

// Pods holds one directory per sandbox, with the records.
func (l Layout) Pods() string { return filepath.Join(l.Root, "pods") }

// Pod is the directory of one sandbox under Root.
func (l Layout) Pod(sandbox string) string { return filepath.Join(l.Pods(), sandbox) }

// SandboxRecord is the record of a sandbox.
func (l Layout) SandboxRecord(sandbox string) string {
	return filepath.Join(l.Pod(sandbox), "sandbox.json")
}

// Container is the directory of a container under Root: its record and its writable layer.
func (l Layout) Container(sandbox, container string) string {
	return filepath.Join(l.Pod(sandbox), "containers", container)
}

// ContainerRecord is the record of a container.
func (l Layout) ContainerRecord(sandbox, container string) string {
	return filepath.Join(l.Container(sandbox, container), "container.json")
}

// Upper and Work are the overlay directories of a container's writable layer.
func (l Layout) Upper(sandbox, container string) string {
	return filepath.Join(l.Container(sandbox, container), "upper")
}

// Work is the overlay work directory that belongs to Upper.
func (l Layout) Work(sandbox, container string) string {
	return filepath.Join(l.Container(sandbox, container), "work")
}

// Dump holds what is on its way into a container's checkpoint.
func (l Layout) Dump(sandbox, container string) string {
	return filepath.Join(l.Container(sandbox, container), "dump")
}

// Restore holds the processes of a container that is restored, until they run.
func (l Layout) Restore(sandbox, container string) string {
	return filepath.Join(l.Container(sandbox, container), "restore")
}

// Quarantine holds records that could not be trusted.
func (l Layout) Quarantine() string { return filepath.Join(l.Root, "quarantine") }

// Images holds the content store, the image records and the layers.
func (l Layout) Images() string { return filepath.Join(l.Root, "images") }

// CNICache is libcni's cache of results.
func (l Layout) CNICache() string { return filepath.Join(l.Root, "cni") }

// Namespaces holds the pinned namespaces of a sandbox: net, ipc, uts, pid and user.
func (l Layout) Namespaces(sandbox string) string { return filepath.Join(l.State, "ns", sandbox) }

// Shared holds what the containers of a sandbox share: resolv.conf, hosts, hostname, shm.
func (l Layout) Shared(sandbox string) string { return filepath.Join(l.State, "shared", sandbox) }

// Bundle is the OCI bundle of a container: config.json, rootfs, FIFOs. The init of a sandbox
// with a shared PID namespace uses the sandbox's id.
func (l Layout) Bundle(container string) string { return filepath.Join(l.State, "bundles", container) }

// Rootfs is the mount point of a container's root file system.
func (l Layout) Rootfs(container string) string { return filepath.Join(l.Bundle(container), "rootfs") }

// Monitor is the directory of cri-monitor: its socket, its lock, its records, the exits.
func (l Layout) Monitor() string { return filepath.Join(l.State, "monitor") }

// MonitorSocket is where cri-monitor listens.
func (l Layout) MonitorSocket() string { return filepath.Join(l.Monitor(), "monitor.sock") }

// MonitorLock is held by the one cri-monitor that serves.
func (l Layout) MonitorLock() string { return filepath.Join(l.Monitor(), "lock") }

// SessionSocket is where cri-monitor hands out streams.
func (l Layout) SessionSocket() string { return filepath.Join(l.Monitor(), "streams.sock") }

// RuncRoot is the state directory given to the OCI runtime.
func (l Layout) RuncRoot() string { return filepath.Join(l.State, "runc") }

// Socket is the default CRI socket.
func (l Layout) Socket() string { return filepath.Join(l.State, "cri-shim.sock") }
