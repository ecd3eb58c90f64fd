package nri

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// adjust applies what plugins ask for. What this host cannot do is refused, never left out.
func (h Host) adjust(spec *specs.Spec, a *api.ContainerAdjustment) error {
	if a == nil {
		return nil
	}
	if err := h.cgroup(a.GetLinux().GetCgroupsPath()); err != nil {
		return err
	}
	options := []generate.GeneratorOption{
		generate.WithResourceChecker(h.checkResources),
		generate.WithRdtResolver(rdtClass),
		generate.WithBlockIOResolver(func(class string) (*specs.LinuxBlockIO, error) {
			return nil, fmt.Errorf("blockio_class %.100q: no classes are configured: %w", class, errdefs.ErrNotImplemented)
		}),
		generate.WithCDIDeviceInjector(h.injectCDI),
	}
	if err := generate.SpecGenerator(generator{spec}, options...).Adjust(a); err != nil {
		return err
	}
	// The last one of a kind counts: the library adds to what is there.
	seen := map[string]bool{}
	for i := len(spec.Process.Rlimits) - 1; i >= 0; i-- {
		if kind := spec.Process.Rlimits[i].Type; seen[kind] {
			spec.Process.Rlimits = slices.Delete(spec.Process.Rlimits, i, i+1)
		} else {
			seen[kind] = true
		}
	}
	return nil
}

// cgroup checks a path that a plugin has chosen.
func (h Host) cgroup(p string) error {
	switch {
	case p == "":
	case h.Systemd:
		if parts := strings.Split(p, ":"); len(parts) != 3 || !strings.HasSuffix(parts[0], ".slice") || strings.Contains(p, "/") {
			return fmt.Errorf("cgroups_path %.200q: want slice:prefix:name with the systemd cgroup driver: %w", p, errdefs.ErrInvalidArgument)
		}
	case !path.IsAbs(p) || path.Clean(p) != p || p == "/":
		return fmt.Errorf("cgroups_path %.200q: want an absolute path without \"..\": %w", p, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkResources leaves hugepage limits out where the kernel has no controller for them, as for limits of a
// request: a kubelet sends them to every host, and plugins copy them.
func (h Host) checkResources(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if !h.Controllers["hugetlb"] {
		r.HugepageLimits = nil
	}
	if len(r.Unified) > 0 && !h.CgroupV2 {
		return fmt.Errorf("unified: this host has cgroup v1: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (h Host) injectCDI(spec *specs.Spec, names []string) error {
	if h.InjectCDI == nil {
		return fmt.Errorf("CDI devices %v: no directory of CDI files is configured: %w", names, errdefs.ErrInvalidArgument)
	}
	return h.InjectCDI(spec, names)
}

// rdtClass is a directory of resctrl (Documentation/filesystems/resctrl.rst).
func rdtClass(class string) (*specs.LinuxIntelRdt, error) {
	if _, err := os.Stat("/sys/fs/resctrl/schemata"); err != nil {
		return nil, fmt.Errorf("rdt_class %.100q: resctrl is not mounted on this host: %w: %w", class, err, errdefs.ErrFailedPrecondition)
	}
	return &specs.LinuxIntelRdt{ClosID: class}, nil
}
