// Command bridge-ipam is the CNI plugin; see the package bridgeipam.
package main

import (
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	bridgeipam "github.com/podwright/podwright/plugins/bridge-ipam"
)

// version is set by the build.
var version = "devel"

func main() {
	// One short call: there is nothing to collect before it ends, and two threads of work at most.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(64 << 20)
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
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
