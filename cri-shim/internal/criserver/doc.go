// Package criserver speaks the CRI v1 on a socket. It is the only importer of k8s.io/cri-api.
//
// A handler translates, calls, translates: requests are validated here, once and completely
// (…_in.go), and become values of the domain; records become answers (…_out.go). Readiness, error
// codes, panics and logging are one interceptor. What is not implemented answers Unimplemented.
//
// Beside the CRI one service of our own is on the socket, for cri-shim import (import.go).
//
// It never touches the kernel, a file of a container or the network, and it keeps no state: a crash
// loses only answers, and callers ask again.
package criserver
