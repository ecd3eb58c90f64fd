// Package kubelet runs a real kubelet over a test node's cri-shim: standalone, that is without an API server, with
// the static pods of a directory. It needs network and mount namespaces of its own (test/isolate), because a kubelet
// has fixed paths on the host. What it changes of the host otherwise, cgroups, it changes under the node's own parent.
package kubelet
