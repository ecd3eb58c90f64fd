package criserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestVersion(t *testing.T) {
	v, err := started(t).Version(t.Context(), &runtime.VersionRequest{Version: "v1"})
	if err != nil || v.GetVersion() == "" || v.GetRuntimeName() != "cri-shim" || v.GetRuntimeVersion() != "0.1.0" || v.GetRuntimeApiVersion() != "v1" {
		t.Errorf("got %v, %v", v, err)
	}
}

func TestStatus(t *testing.T) {
	w := started(t)
	w.network.ready = errors.New("no CNI configuration in /x")
	s, err := w.Status(t.Context(), &runtime.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	conditions := s.GetStatus().GetConditions()
	if c := conditions[0]; c.GetType() != "RuntimeReady" || !c.GetStatus() {
		t.Errorf("got %v", c)
	}
	if c := conditions[1]; c.GetType() != "NetworkReady" || c.GetStatus() || c.GetReason() == "" || c.GetMessage() != "no CNI configuration in /x" {
		t.Errorf("got %v", c)
	}
	if c := conditions[2]; c.GetType() != "OCIRuntimesHaveNoKnownFaults" || !c.GetStatus() {
		t.Errorf("got %v", c)
	}
	h := s.GetRuntimeHandlers()
	if len(h) != 2 || h[0].GetName() != "" || h[0].GetFeatures() == nil || !h[1].GetFeatures().GetRecursiveReadOnlyMounts() {
		t.Errorf("handlers: %v", h)
	}
	if !s.GetFeatures().GetSupplementalGroupsPolicy() {
		t.Error("supplemental_groups_policy is not announced")
	}
	var config struct {
		StateDir string `json:"stateDir"`
	}
	if err := json.Unmarshal([]byte(s.GetInfo()["config"]), &config); err != nil || config.StateDir != "/run/x" {
		t.Errorf("info: %v, %v", s.GetInfo(), err)
	}

	w.network.ready, w.healthy = nil, errors.New("no monitor")
	s, err = w.Status(t.Context(), &runtime.StatusRequest{})
	if err != nil || s.GetStatus().GetConditions()[0].GetStatus() || !s.GetStatus().GetConditions()[1].GetStatus() || s.GetInfo() != nil {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestStatusWarnsOfAnOldRuntime(t *testing.T) {
	w := started(t, func(d *Deps) {
		for i := range d.Handlers {
			d.Handlers[i].Warning = fmt.Sprintf("warning %d", i)
		}
	})
	s, err := w.Status(t.Context(), &runtime.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if c := s.GetStatus().GetConditions()[2]; c.GetStatus() || c.GetReason() != "OldOCIRuntime" || c.GetMessage() != "warning 0\nwarning 1" {
		t.Errorf("got %v", c)
	}
}

func TestRuntimeConfigSaysTheDriver(t *testing.T) {
	for systemd, want := range map[bool]runtime.CgroupDriver{false: runtime.CgroupDriver_CGROUPFS, true: runtime.CgroupDriver_SYSTEMD} {
		w := started(t, func(d *Deps) { d.SystemdCgroup = systemd })
		c, err := w.RuntimeConfig(t.Context(), &runtime.RuntimeConfigRequest{})
		if err != nil || c.GetLinux() == nil || c.GetLinux().GetCgroupDriver() != want {
			t.Errorf("got %v, %v", c, err)
		}
	}
}

func TestUpdateRuntimeConfig(t *testing.T) {
	w := started(t)
	if _, err := w.UpdateRuntimeConfig(t.Context(), &runtime.UpdateRuntimeConfigRequest{}); err != nil || w.network.cidr != "" {
		t.Errorf("nothing to do: %v, %q", err, w.network.cidr)
	}
	r := &runtime.UpdateRuntimeConfigRequest{RuntimeConfig: &runtime.RuntimeConfig{
		NetworkConfig: &runtime.NetworkConfig{PodCidr: "10.1.0.0/24,fd00::/64"},
	}}
	if _, err := w.UpdateRuntimeConfig(t.Context(), r); err != nil || w.network.cidr != "10.1.0.0/24,fd00::/64" {
		t.Errorf("got %v, %q", err, w.network.cidr)
	}
	w.network.fail = fmt.Errorf("bad: %w", errdefs.ErrInvalidArgument)
	_, err := w.UpdateRuntimeConfig(t.Context(), r)
	wantCode(t, err, codes.InvalidArgument, "pod_cidr")
}
