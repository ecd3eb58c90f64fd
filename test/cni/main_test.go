// Package cni tests bridge-ipam as runtimes meet it: by its binary, beside the reference plugins in the same
// situations, and under loads and kills. It imports nothing of podwright but other test packages.
package cni

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/podwright/podwright/test/cni/lab"
)

// Directories of the plugin under test, and of the reference plugins and cnitool.
var ours, reference, root string

func TestMain(m *testing.M) {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "build what is tested:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// build makes the plugin, and the reference plugins where they are missing: they are pinned.
func build() (err error) {
	if root, err = filepath.Abs("../.."); err != nil {
		return err
	}
	ours, reference = root+"/bin", root+"/.cache/tools"
	targets := []string{"build"}
	for _, name := range []string{"bridge", "host-local", "portmap", "bandwidth", "cnitool"} {
		if _, err := os.Stat(reference + "/" + name); errors.Is(err, os.ErrNotExist) {
			targets = append(targets, "tools")
			break
		}
	}
	cmd := exec.Command("make", append([]string{"--no-print-directory", "-C", root}, targets...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// requireRoot skips for a user, and fails in CI, where a skipped test would be a gap that nobody sees.
func requireRoot(t testing.TB) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal("needs root, and CI must not skip it")
	default:
		t.Skip("needs root")
	}
}

func newNode(t testing.TB) *lab.Node {
	t.Helper()
	requireRoot(t)
	n, err := lab.NewNode()
	must(t, err)
	t.Cleanup(n.Close)
	return n
}

func newPod(t testing.TB) *lab.NS {
	t.Helper()
	ns, err := lab.NewNS()
	must(t, err)
	t.Cleanup(ns.Close)
	return ns
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
