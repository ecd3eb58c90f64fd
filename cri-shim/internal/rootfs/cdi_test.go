package rootfs

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/cdi"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// TestCDIDevices reach the configuration; an unknown one leaves nothing.
func TestCDIDevices(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	const vendor = `{"cdiVersion": "0.6.0", "kind": "podwright.test/null", "devices": [{"name": "one", "containerEdits": {"env": ["ONE=1"]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "v.json"), []byte(vendor), 0o644); err != nil {
		t.Fatal(err)
	}
	h.m.opt.Devices = cdi.Dirs{dir}
	s := sandbox("s10")
	h.sandbox(s)
	c := container("c10", "true")
	c.Config.CDIDevices = []string{"podwright.test/null=two"}
	if _, _, err := h.m.Prepare(t.Context(), s, c, pod.ContainerImages{Root: h.image(nil)}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("an unknown device: %v", err)
	}
	if _, err := os.Lstat(h.layout.Bundle("c10")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the bundle is left")
	}
	c.Config.CDIDevices = []string{"podwright.test/null=one"}
	if _, _, err := h.m.Prepare(t.Context(), s, c, pod.ContainerImages{Root: h.image(nil)}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(h.layout.Bundle("c10"), "config.json"))
	var spec specs.Spec
	if err = errors.Join(err, json.Unmarshal(data, &spec), h.m.Remove(t.Context(), s.ID, c.ID)); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(spec.Process.Env, "ONE=1") {
		t.Errorf("env %v", spec.Process.Env)
	}
}
