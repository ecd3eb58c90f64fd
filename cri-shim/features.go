package crishim

import (
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// mountsRecursiveReadOnly asks an OCI runtime whether it knows the mount option "rro". One that does not
// answer the question does not know the option either: both came with the same versions.
func mountsRecursiveReadOnly(ctx context.Context, runtime string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, runtime, "features").Output()
	if err != nil {
		return false
	}
	var f features.Features
	return json.Unmarshal(out, &f) == nil && slices.Contains(f.MountOptions, "rro")
}
