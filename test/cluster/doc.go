// Package cluster runs a whole Kubernetes cluster on one machine: etcd and the control plane in the network namespace of its
// caller, and nodes, each in network and mount namespaces and below cgroups of its own, joined by a bridge. On a node are a
// kubelet, kube-proxy in nftables mode, and cri-shim with bridge-ipam, or containerd with the reference plugins beside it.
//
// The caller's namespaces must not be those of the host (test/isolate): addresses and mounts are fixed. What a cluster has outside
// of them is below one directory and one cgroup, and its daemons end with the process that has started them. Containers do not:
// after a kill -9 of that process Remove ends what is in the cgroup, and removes both.
package cluster
