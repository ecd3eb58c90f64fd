package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/containerd/containerd/v2/pkg/imageverifier/bindir"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrVerification is the class of a pull that the node's verifiers did not let in.
var ErrVerification = errors.New("image verification failed")

// verify asks the programs in VerifierDir whether an image may be pulled. All must let it in, and what cannot be asked does not.
// The protocol is that of containerd's image verifier plugins.
func (s *Store) verify(ctx context.Context, name string, target imagespec.Descriptor) error {
	if s.cfg.VerifierDir == "" {
		return nil
	}
	// The library lets everything in where there is no verifier. Who names a directory means it.
	if programs, err := os.ReadDir(s.cfg.VerifierDir); err != nil {
		return fmt.Errorf("verifiers: %w: %w", err, ErrVerification)
	} else if len(programs) == 0 {
		return fmt.Errorf("verifiers: none in %s: %w", s.cfg.VerifierDir, ErrVerification)
	}
	cfg := bindir.Config{BinDir: s.cfg.VerifierDir, MaxVerifiers: -1}
	reflect.ValueOf(&cfg.PerVerifierTimeout).Elem().SetInt(int64(s.cfg.VerifierTimeout)) // a type that the library keeps for itself
	verdict, err := bindir.NewImageVerifier(&cfg).VerifyImage(ctx, name, target)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w: %w", err, ErrVerification)
	case !verdict.OK:
		return fmt.Errorf("%s: %w", verdict.Reason, ErrVerification)
	}
	s.log.Info("image verified", "image", name, "digest", target.Digest, "verdict", verdict.Reason)
	return nil
}
