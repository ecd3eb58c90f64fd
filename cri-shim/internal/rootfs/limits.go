package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/bundle"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/durable"
)

// SetLimits implements pod.Bundles. The file is replaced as a whole, because cri-monitor may read it now.
func (m *Maker) SetLimits(_ context.Context, c pod.Container, r pod.Resources) ([]byte, error) {
	file := m.configFile(c.ID)
	spec, err := readSpec(file)
	if err != nil {
		return nil, err
	}
	bundle.SetLimits(spec, r, m.opt.Facts)
	if err := replaceSpec(file, spec); err != nil {
		return nil, err
	}
	return json.Marshal(bundle.Update(r, m.opt.Facts))
}

// Adjust implements pod.Bundles.
func (m *Maker) Adjust(_ context.Context, c pod.Container, f func(*specs.Spec) error) (pod.Effective, string, error) {
	file, eff := m.configFile(c.ID), c.Effective
	spec, err := readSpec(file)
	if err != nil {
		return eff, "", err
	}
	if eff.Limits, err = bundle.Adjusted(spec, c.Config.Resources, f); err != nil {
		return eff, "", err
	}
	return eff, spec.Linux.CgroupsPath, replaceSpec(file, spec)
}

// Spec reads the configuration of a container back.
func (m *Maker) Spec(id pod.ID) (*specs.Spec, error) { return readSpec(m.configFile(id)) }

func (m *Maker) configFile(id pod.ID) string {
	return filepath.Join(m.opt.Layout.Bundle(string(id)), "config.json")
}

func replaceSpec(file string, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode config.json: %w", err)
	}
	if err := durable.WriteFile(file, data, 0o600, durable.NoSync); err != nil {
		return fmt.Errorf("write config.json: %w", err)
	}
	return nil
}

func readSpec(file string) (*specs.Spec, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the bundle: %w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if spec.Linux == nil || spec.Linux.Resources == nil || spec.Process == nil {
		return nil, fmt.Errorf("read %s: it is not one of ours: %w", file, errdefs.ErrDataLoss)
	}
	return spec, nil
}
