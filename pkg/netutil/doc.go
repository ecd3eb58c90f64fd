// Package netutil is the kernel's network side: namespaces, links, addresses, routes, sysctls, connection
// tracking and nftables. It is the only importer of the netlink, netns and nftables libraries and runs no
// program.
//
// It owns no state and decides nothing: every function is one request to the kernel, or a few that belong
// together, and can be repeated. A crash between two of them leaves what the kernel has done so far.
//
// Errors carry the classes of github.com/containerd/errdefs: ErrNotFound (no such link, namespace, table),
// ErrAlreadyExists, ErrInvalidArgument, ErrPermissionDenied and ErrResourceExhausted (a bridge is full), with the kernel's
// errno kept in the chain.
package netutil
