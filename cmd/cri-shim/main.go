// Command cri-shim is a Kubernetes container runtime; see cri-shim --help.
package main

import (
	"context"
	"os"

	crishim "github.com/podwright/podwright/cri-shim"
)

// version is set by the linker. The kubelet wants a semantic version.
var version = "0.1.0-devel"

func main() {
	os.Exit(crishim.Main(context.Background(), version, os.Args[1:]))
}
