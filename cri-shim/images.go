package crishim

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/criserver"
	"github.com/podwright/podwright/cri-shim/internal/image"
	"github.com/podwright/podwright/cri-shim/internal/paths"
)

// images shows the image store to the CRI server in the server's own terms.
type images struct {
	store  *image.Store
	pinned []string // full names, with * for any text
}

func newImages(ctx context.Context, cfg ImageConfig, layout paths.Layout, logger *slog.Logger) (*images, error) {
	s, err := image.New(ctx, image.Config{
		Dir: layout.Images(), RegistryConfigDir: cfg.RegistryConfigDir, MaxParallelDownloads: cfg.MaxParallelDownloads,
		ProgressTimeout: time.Duration(cfg.ProgressTimeout), VerifierDir: cfg.VerifierDir,
		VerifierTimeout: time.Duration(cfg.VerifierTimeout), Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	return &images{s, cfg.Pinned}, nil
}

// Pull implements criserver.Images.
func (i *images) Pull(ctx context.Context, ref string, c criserver.Credentials) (string, error) {
	id, err := i.store.Pull(ctx, ref, image.Auth{
		Username: c.Username, Password: c.Password, Server: c.Server, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
	})
	return id, imageFault(err)
}

// imageFault gives errors of the store the server's classes.
func imageFault(err error) error {
	switch {
	case errors.Is(err, image.ErrRegistryUnavailable):
		return classed{err, criserver.ErrRegistryUnavailable}
	case errors.Is(err, image.ErrVerification):
		return classed{err, criserver.ErrSignature}
	}
	return err
}

// Import implements criserver.Images.
func (i *images) Import(ctx context.Context, archive io.Reader, name string) (map[string]string, error) {
	all, err := i.store.Import(ctx, archive, name)
	ids := map[string]string{}
	for _, img := range all {
		ids[img.Name] = img.ID
	}
	return ids, imageFault(err)
}

// classed gives an error the server's class without adding its text.
type classed struct {
	error
	class error
}

func (c classed) Is(target error) bool { return target == c.class } //nolint:errorlint // identity of a sentinel
func (c classed) Unwrap() error        { return c.error }

// List implements criserver.Images.
func (i *images) List(context.Context) ([]criserver.Image, error) {
	all := i.store.Images()
	out := make([]criserver.Image, len(all))
	for k, img := range all {
		out[k] = i.shown(img)
	}
	return out, nil
}

// Find implements criserver.Images.
func (i *images) Find(_ context.Context, ref string) (criserver.Image, error) {
	img, err := i.store.Image(ref)
	return i.shown(img), err
}

func (i *images) shown(img image.Image) criserver.Image {
	return criserver.Image{
		ID: img.ID, Tags: img.Tags, Digests: img.Digests, Size: img.Size, User: img.Config.Config.User, Config: img.RawJSON,
		Pinned: slices.ContainsFunc(i.pinned, func(pattern string) bool {
			return slices.ContainsFunc(slices.Concat(img.Tags, img.Digests), func(name string) bool { return matches(pattern, name) })
		}),
	}
}

// matches says whether name is pattern, in which * stands for any text.
func matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	first, rest := parts[0], parts[1:]
	name, ok := strings.CutPrefix(name, first)
	if !ok || len(rest) == 0 {
		return ok && name == ""
	}
	last := rest[len(rest)-1]
	if name, ok = strings.CutSuffix(name, last); !ok {
		return false
	}
	for _, part := range rest[:len(rest)-1] {
		if _, name, ok = strings.Cut(name, part); !ok {
			return false
		}
	}
	return true
}

// Remove implements criserver.Images.
func (i *images) Remove(ctx context.Context, ref string) error { return i.store.Remove(ctx, ref) }

// Usage implements criserver.Images.
func (i *images) Usage(context.Context) (criserver.FSUsage, error) {
	u := i.store.Usage()
	return criserver.FSUsage{Time: u.Time, MountPoint: u.Dir, Bytes: u.Bytes, Inodes: u.Inodes}, nil
}

func (i *images) close() error { return i.store.Close() }
