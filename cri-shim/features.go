package crishim

import (
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// runtimeFeatures are what an OCI runtime says that it can (runtime-spec, features.md).
type runtimeFeatures struct {
	recursiveReadOnly bool // the mount option "rro"
	idMap             bool // ID-mapped mounts, and the user namespaces that they are for
	checkpoints       bool // it was built with CRIU's protocol
}

// askRuntime asks an OCI runtime. One that does not answer the question can do neither: the answer came with the
// same versions.
func askRuntime(ctx context.Context, runtime string) runtimeFeatures {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, runtime, "features").Output()
	if err != nil {
		return runtimeFeatures{}
	}
	return readFeatures(out)
}

func readFeatures(out []byte) runtimeFeatures {
	var f features.Features
	if json.Unmarshal(out, &f) != nil {
		return runtimeFeatures{}
	}
	r := runtimeFeatures{recursiveReadOnly: slices.Contains(f.MountOptions, "rro")}
	if l := f.Linux; l != nil && l.MountExtensions != nil && l.MountExtensions.IDMap != nil && l.MountExtensions.IDMap.Enabled != nil {
		r.idMap = *l.MountExtensions.IDMap.Enabled && slices.Contains(l.Namespaces, "user")
	}
	for _, key := range []string{"org.opencontainers.runc.checkpoint.enabled", "run.oci.crun.checkpoint.enabled"} {
		if f.Annotations[key] == "true" {
			r.checkpoints = true
		}
	}
	return r
}
