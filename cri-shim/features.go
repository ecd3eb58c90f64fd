package crishim

import (
	"context"
	"encoding/json"
	"errors"
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
	out, err := answerOf(ctx, runtime, "features")
	if err != nil {
		return runtimeFeatures{}
	}
	return readFeatures(out)
}

// answerOf runs a program that answers a question at once. A child that it leaves is not waited for.
func answerOf(ctx context.Context, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out, err
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
