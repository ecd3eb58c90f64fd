package client

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func resources(t *testing.T, r specs.LinuxResources) []byte {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestUpdate(t *testing.T) {
	n := newNode(t)
	s := n.start("c", "exec sleep 1000", nil)
	shares := func() string {
		for _, file := range []string{"/sys/fs/cgroup/cpu" + n.parent + "/c/cpu.shares", "/sys/fs/cgroup" + n.parent + "/c/cpu.weight"} {
			if data, err := os.ReadFile(file); err == nil {
				return strings.TrimSpace(string(data))
			}
		}
		return "none"
	}
	before := shares()
	want := uint64(512)
	change := resources(t, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &want}})
	if err := n.c.Update(t.Context(), "c", change); err != nil || shares() == before {
		t.Errorf("shares %s, before %s, %v", shares(), before, err)
	}
	changed, other, limit := shares(), uint64(256), int64(4096)
	both := resources(t, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &other}, Memory: &specs.LinuxMemory{Limit: &limit}})
	if err := n.c.Update(t.Context(), "c", both); err == nil || shares() != changed {
		t.Errorf("memory in use: shares %s, want %s, %v", shares(), changed, err)
	}
	for id, change := range map[pod.ID][]byte{"none": change, "c": []byte("{")} {
		err := n.c.Update(t.Context(), id, change)
		if (id == "none") != errdefs.IsFailedPrecondition(err) || (id == "c") != errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := n.c.Kill(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if err := n.c.Update(t.Context(), "c", change); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("of one that has ended: %v", err)
	}
	if left, _ := filepath.Glob(s.Bundle + "/update-*"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestUpdateByAnOlderMonitor: it was there before the call was.
func TestUpdateByAnOlderMonitor(t *testing.T) {
	layout := paths.Layout{State: t.TempDir()}
	if err := os.MkdirAll(layout.Monitor(), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", layout.MonitorSocket())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	srv.RegisterService("podwright.monitor.v1.Monitor", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{}})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), l) }()
	c := New(Options{Layout: layout, Logger: slog.New(slog.DiscardHandler)})
	if err := c.Update(t.Context(), "c", []byte("{}")); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "older") {
		t.Errorf("got %v", err)
	}
	_ = c.Close()
	_ = srv.Close()
	<-served
}
