package server

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestKillThawsTheEmpty: a cgroup that a monitor froze and left, because it died or its last process did, is thawed by
// the next kill: the OCI runtime deletes nothing that is frozen.
func TestKillThawsTheEmpty(t *testing.T) {
	nettest.RequireRoot(t)
	h, err := findHierarchies()
	if err != nil {
		t.Fatal(err)
	}
	c := cgroup{h, fmt.Sprintf("/podwright-test-thaw%d", os.Getpid())}
	dir, file, frozen, thawed := h.V1["freezer"]+c.path, "/freezer.state", "FROZEN", "THAWED"
	if h.Unified != "" {
		dir, file, frozen, thawed = h.Unified+c.path, "/cgroup.freeze", "1", "0"
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(dir+file, []byte(frozen), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.kill(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(dir + file); strings.TrimSpace(string(got)) != thawed || err != nil {
		t.Errorf("the cgroup is %q, %v", got, err)
	}
}
