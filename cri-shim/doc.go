// Package crishim is the Kubernetes container runtime cri-shim: its configuration, its command line, and
// the composition of its parts.
//
// # Processes
//
// cri-shim may die at any moment; it owns no child that matters. cri-monitor, one small process for the
// whole node, parents every container, holds its output, writes its log and records its end. A pod has no
// process of its own: its namespaces are pinned as files.
//
// # Parts
//
//	criserver   speaks the CRI: translates, validates, gives errors their codes
//	pod         the domain: records, states, operations, recovery; knows the outside only by its ports
//	store       records on disk                        (pod.Store)
//	image       pulls and unpacks images               (pod.Images)
//	podnet      runs CNI plugins                       (pod.Network)
//	podns       pins namespaces                        (pod.Pinner)
//	rootfs      bundles and what pods share on disk    (pod.Bundles)
//	monitor     the client of cri-monitor              (pod.Runtime)
//	stats       measures what containers and pods use  (criserver.Stats)
//	doctor      looks for what was left behind, for people
//	hostinfo    what this kernel and host can do, found once
//
// Arrows go down only: this package makes the parts and hands them to each other; none of them knows it.
//
// # A start
//
// The lock on the state directory is taken, so that a second instance fails instead of harming the first.
// The socket appears, and answers Unavailable while the records are compared with what really runs. Then
// every call is answered, systemd is told, and what belongs to no pod is given back to the network.
//
// # An end
//
// SIGTERM stops new calls, lets those in flight finish for a few seconds, and touches no container. What
// was cut off is found by the next start in its records. kill -9 is the same without the courtesy.
package crishim
