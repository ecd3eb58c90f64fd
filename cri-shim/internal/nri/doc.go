// Package nri lets plugins of the Node Resource Interface follow, and change, the pods and containers of this node.
// It is the only importer of github.com/containerd/nri. It decides nothing about pods: it tells plugins what the
// manager does, applies what they answer to an OCI configuration, and hands their wishes for other containers on.
//
// A plugin that dies, hangs or sends nonsense is dropped by the library, at the latest when the request's time is
// over; the operation goes on without it, unless the plugin itself has asked for the opposite.
//
// Crash story: nothing is kept. Plugins connect again after a start and are told what there is.
package nri
