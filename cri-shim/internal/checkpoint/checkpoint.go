package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Freezer is what cri-monitor does for a checkpoint.
type Freezer interface {
	// Freeze freezes all containers or none. thaw returns when all go on.
	Freeze(ctx context.Context, ids []pod.ID) (thaw func() error, err error)
	// Dump writes the processes of a container into the directory images, and the log of that into work.
	Dump(ctx context.Context, id pod.ID, images, work string) error
}

// Options are the parts of a Checkpoints.
type Options struct {
	Layout   paths.Layout
	Freezer  Freezer
	Runtimes map[string]Runtime // by handler
	CRIU     string             // the program, to be looked up in PATH
}

// Runtime is an OCI runtime, and whether it says that it can make checkpoints.
type Runtime struct {
	Path        string
	Checkpoints bool
}

// Checkpoints implements pod.Checkpoints.
type Checkpoints struct{ opt Options }

// New starts nothing.
func New(opt Options) *Checkpoints { return &Checkpoints{opt} }

// Ready implements pod.Checkpoints. CRIU is asked anew each time: it may have been installed meanwhile.
func (c *Checkpoints) Ready(ctx context.Context, handler string) error {
	rt, ok := c.opt.Runtimes[handler]
	switch {
	case !ok:
		return fmt.Errorf("runtime handler %q is not known: %w", handler, errdefs.ErrInvalidArgument)
	case !rt.Checkpoints:
		return fmt.Errorf("checkpoints: the OCI runtime %s does not say that it makes them (features, checkpoint.enabled): %w", rt.Path, errdefs.ErrNotImplemented)
	}
	criu, err := exec.LookPath(c.opt.CRIU)
	if err != nil {
		return fmt.Errorf("checkpoints need CRIU, which is not installed (%s is not in PATH): %w", c.opt.CRIU, errdefs.ErrFailedPrecondition)
	}
	out, err := exec.CommandContext(ctx, criu, "check").CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("%s check: %w", criu, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("checkpoints need CRIU, and %s check says that it cannot work on this kernel: %s: %w", criu, firstError(string(out)), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// firstError is the first complaint of CRIU, in one line.
func firstError(out string) string {
	for line := range strings.Lines(out) {
		if _, text, ok := strings.Cut(line, "Error "); ok {
			return fmt.Sprintf("%.300s", strings.TrimSpace(text))
		}
	}
	return fmt.Sprintf("%.300s", strings.Join(strings.Fields(out), " "))
}

// Clean implements pod.Checkpoints.
func (c *Checkpoints) Clean(sandbox, id pod.ID) error {
	return errors.Join(
		os.RemoveAll(c.opt.Layout.Dump(string(sandbox), string(id))),
		os.RemoveAll(c.opt.Layout.Restore(string(sandbox), string(id))))
}

// images is where CRIU's own files are in a directory of a container.
func images(dir string) string { return filepath.Join(dir, "checkpoint") }
