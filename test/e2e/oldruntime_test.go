package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestOldRuntimeIsNamed: a version of runc with known faults is named where people look, and runs containers.
func TestOldRuntimeIsNamed(t *testing.T) {
	n := prepareNode(t)
	runc, err := exec.LookPath("runc")
	n.must(err)
	old := n.Base + "/old-runc"
	n.must(os.WriteFile(old, fmt.Appendf(nil, "#!/bin/sh\n[ \"$1\" = --version ] && { echo runc version 1.2.4; exit; }\nexec %s \"$@\"\n", runc), 0o755))
	n.UseRuntime(old)
	n.must(n.Start())
	n.crictl("pull", image)
	const want = "old-runc is runc 1.2.4, which has CVE-2025-31133"
	if info := n.crictl("info"); !strings.Contains(info, want) {
		t.Errorf("crictl info: %s", info)
	}
	if !strings.Contains(n.ShimLog(), want) {
		t.Error("the log says nothing")
	}
	id := n.run(n.pod("old"), "old", "main", "exit 3", "")
	if c := n.ended(id); c.Status.ExitCode != 3 {
		t.Errorf("got %+v", c.Status)
	}
}
