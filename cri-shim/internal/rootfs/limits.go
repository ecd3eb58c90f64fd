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
	file := filepath.Join(m.opt.Layout.Bundle(string(c.ID)), "config.json")
	spec, err := readSpec(file)
	if err != nil {
		return nil, err
	}
	bundle.SetLimits(spec, r, m.opt.Facts)
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode config.json: %w", err)
	}
	if err := durable.WriteFile(file, data, 0o600, durable.NoSync); err != nil {
		return nil, fmt.Errorf("write config.json: %w", err)
	}
	return json.Marshal(bundle.Update(r, m.opt.Facts))
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
