// Command bridge-ipam is the CNI plugin; see the package bridgeipam.
package main

import (
	"log/slog"
	"os"

	_ "github.com/podwright/podwright/cmd/bridge-ipam/internal/oneproc"
	bridgeipam "github.com/podwright/podwright/plugins/bridge-ipam"
)

// version is set by the build.
var version = "devel"

func main() {
	os.Exit(bridgeipam.Main(bridgeipam.Process{
		Args:    os.Args[1:],
		Version: version,
		Getenv:  os.Getenv,
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}))
}
