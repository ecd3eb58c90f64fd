package runc

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Update changes the limits of a running container to those in the file resources, which is linux.resources of
// a config.json. A memory limit that is used up already is ErrFailedPrecondition, a value that the kernel
// refuses ErrInvalidArgument. The runtime may have set some of the limits when it fails.
func (r Runtime) Update(ctx context.Context, id, resources string) error {
	return r.command(ctx, IO{}, "update", "--resources", resources, id)
}

func refusedUpdate(text string) error {
	for _, k := range []struct {
		class error
		says  []string
	}{
		{errdefs.ErrFailedPrecondition, []string{"unable to set memory limit", "device or resource busy"}},
		{errdefs.ErrInvalidArgument, []string{"invalid argument", "numerical result out of range", "invalid CPU", "permission denied"}},
	} {
		for _, s := range k.says {
			if strings.Contains(text, s) {
				return fmt.Errorf("oci runtime update: %s: %w", text, k.class)
			}
		}
	}
	return fmt.Errorf("oci runtime update: %s", text)
}
