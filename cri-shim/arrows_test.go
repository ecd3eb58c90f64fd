package crishim_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/podwright/podwright"

// listed is what the test needs of `go list -json`.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

func (p listed) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// all is what a package and its tests import.
func (p listed) all() []string { return slices.Concat(p.Imports, p.TestImports, p.XTestImports) }

// TestArrows keeps the layout: who may import what. The first two tables are about direct imports of
// code that is shipped, the others say themselves.
func TestArrows(t *testing.T) {
	packages := list(t)
	t.Run("only", func(t *testing.T) { only(t, packages) })
	t.Run("never", func(t *testing.T) { never(t, packages) })
	t.Run("halves", func(t *testing.T) { halves(t, packages) })
	t.Run("monitor", func(t *testing.T) { monitorIsSmall(t, packages) })
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", module+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	var packages []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 5 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	return packages
}

// within says whether path is one of the roots or below one.
func within(path string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return path == r || strings.HasPrefix(path, r+"/") })
}

// only names the packages that alone may import a library.
func only(t *testing.T, packages []listed) {
	for _, rule := range []struct{ library, importers []string }{
		{[]string{"k8s.io/cri-api"}, []string{"cri-shim/internal/criserver", "cri-shim/internal/stream"}},
		{[]string{"k8s.io/cri-streaming"}, []string{"cri-shim/internal/stream"}},
		{
			[]string{"github.com/containerd/containerd/v2/core", "github.com/containerd/containerd/v2/plugins"},
			[]string{"cri-shim/internal/image"},
		},
		{[]string{"github.com/containernetworking/cni/libcni"}, []string{"cri-shim/internal/podnet"}},
		{
			[]string{"github.com/vishvananda/netlink", "github.com/vishvananda/netns", "github.com/google/nftables"},
			[]string{"pkg/netutil"},
		},
		{[]string{"github.com/prometheus"}, []string{"cri-shim/internal/metrics"}},
		{[]string{"github.com/containerd/nri"}, []string{"cri-shim/internal/nri"}},
		{[]string{"github.com/containerd/ttrpc"}, []string{"cri-shim/internal/monitor"}},
		{[]string{"github.com/checkpoint-restore/checkpointctl"}, []string{"cri-shim/internal/checkpoint"}},
	} {
		for _, p := range packages {
			if within(p.name(), rule.importers...) || within(p.name(), "test") {
				continue // test programs are not shipped
			}
			for _, i := range p.Imports {
				if within(i, rule.library...) {
					t.Errorf("%s imports %s; only %v may", p.name(), i, rule.importers)
				}
			}
		}
	}
}

// never names what a package must stay free of.
func never(t *testing.T, packages []listed) {
	inner := module + "/cri-shim/internal/"
	for _, rule := range []struct {
		importer string
		what     []string
	}{
		{"cri-shim/internal/pod", []string{
			"golang.org/x/sys", "google.golang.org/grpc", "syscall", "os/exec",
			inner + "criserver", inner + "image", inner + "podnet", inner + "store", inner + "monitor", inner + "rootfs", inner + "podns",
		}},
		{"cri-shim/internal/store", []string{inner + "criserver", inner + "image", inner + "podnet", inner + "monitor"}},
		{"cri-shim/internal/image", []string{inner + "criserver", inner + "podnet", inner + "monitor"}},
		{"cri-shim/internal/checkpoint", []string{inner + "criserver", inner + "image", inner + "podnet", inner + "monitor", inner + "store"}},
		{"cri-shim/internal/podnet", []string{inner + "criserver", inner + "image", inner + "monitor", inner + "store"}},
		{"cri-shim/internal/stats", []string{inner + "criserver", inner + "image", inner + "podnet", inner + "monitor", inner + "store", inner + "rootfs"}},
		{"cri-shim/internal/metrics", []string{module}},
		{"cri-shim/internal/nri", []string{
			inner + "criserver", inner + "image", inner + "podnet", inner + "monitor", inner + "store", inner + "rootfs", inner + "bundle",
		}},
		{"cri-shim/internal/doctor", []string{inner + "criserver", inner + "image", inner + "monitor", inner + "rootfs", module + "/plugins"}},
		{"cri-shim/internal", []string{module + "/cmd", module + "/test"}},
		{"pkg", []string{module + "/cri-shim", module + "/plugins", module + "/cmd", module + "/test"}},
	} {
		for _, p := range packages {
			if !within(p.name(), rule.importer) {
				continue
			}
			for _, i := range p.Imports {
				if within(i, rule.what...) {
					t.Errorf("%s imports %s", p.name(), i)
				}
			}
		}
	}
	for _, p := range packages {
		if within(p.name(), "cri-shim/internal") && slices.Contains(p.all(), module+"/cri-shim") {
			t.Errorf("%s imports the composition root", p.name())
		}
	}
}

// halves: the runtime and the plugin meet in CNI's JSON only, and the end-to-end tests see binaries only.
func halves(t *testing.T, packages []listed) {
	for _, p := range packages {
		for _, i := range p.all() {
			switch {
			case within(p.name(), "cri-shim") && within(i, module+"/plugins"),
				within(p.name(), "plugins") && within(i, module+"/cri-shim"):
				t.Errorf("%s imports %s; the two halves never import each other", p.name(), i)
			case within(p.name(), "test/e2e") && within(i, module) && !within(i, module+"/test"):
				t.Errorf("%s imports %s; end-to-end tests use binaries only", p.name(), i)
			}
		}
	}
}

// monitorIsSmall looks at all that is linked into cri-monitor, directly or not: it is always in memory.
func monitorIsSmall(t *testing.T, packages []listed) {
	inner := module + "/cri-shim/internal/"
	heavy := []string{
		"google.golang.org/grpc/internal/transport", "google.golang.org/grpc/server", "net/http",
		"k8s.io", "github.com/containerd/containerd/v2", "github.com/containernetworking", "github.com/spf13", "go.etcd.io/bbolt",
		inner + "image", inner + "criserver", inner + "podnet", inner + "store", inner + "rootfs", inner + "bundle",
	}
	for _, p := range packages {
		if p.name() != "cmd/cri-monitor" && !within(p.name(), "cri-shim/internal/monitor/server") {
			continue
		}
		for _, d := range p.Deps {
			if within(d, heavy...) {
				t.Errorf("%s links %s", p.name(), d)
			}
		}
	}
}
