package crishim

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/criserver"
	"github.com/podwright/podwright/cri-shim/internal/image"
	"github.com/podwright/podwright/cri-shim/internal/paths"
)

// images shows the image store to the CRI server in the server's own terms.
type images struct {
	store *image.Store
}

func newImages(ctx context.Context, cfg ImageConfig, layout paths.Layout, logger *slog.Logger) (*images, error) {
	s, err := image.New(ctx, image.Config{
		Dir: layout.Images(), RegistryConfigDir: cfg.RegistryConfigDir, MaxParallelDownloads: cfg.MaxParallelDownloads,
		ProgressTimeout: time.Duration(cfg.ProgressTimeout), Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	return &images{s}, nil
}

// Pull implements criserver.Images.
func (i *images) Pull(ctx context.Context, ref string, c criserver.Credentials) (string, error) {
	id, err := i.store.Pull(ctx, ref, image.Auth{
		Username: c.Username, Password: c.Password, Server: c.Server, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
	})
	if errors.Is(err, image.ErrRegistryUnavailable) {
		err = unavailable{err}
	}
	return id, err
}

// unavailable gives an error the server's class without adding its text.
type unavailable struct{ error }

func (u unavailable) Is(target error) bool { return target == criserver.ErrRegistryUnavailable } //nolint:errorlint // identity of a sentinel
func (u unavailable) Unwrap() error        { return u.error }

// List implements criserver.Images.
func (i *images) List(context.Context) ([]criserver.Image, error) {
	all := i.store.Images()
	out := make([]criserver.Image, len(all))
	for k, img := range all {
		out[k] = shown(img)
	}
	return out, nil
}

// Find implements criserver.Images.
func (i *images) Find(_ context.Context, ref string) (criserver.Image, error) {
	img, err := i.store.Image(ref)
	return shown(img), err
}

func shown(i image.Image) criserver.Image {
	return criserver.Image{ID: i.ID, Tags: i.Tags, Digests: i.Digests, Size: i.Size, User: i.Config.Config.User, Config: i.RawJSON}
}

// Remove implements criserver.Images.
func (i *images) Remove(ctx context.Context, ref string) error { return i.store.Remove(ctx, ref) }

// Usage implements criserver.Images.
func (i *images) Usage(context.Context) (criserver.FSUsage, error) {
	u := i.store.Usage()
	return criserver.FSUsage{Time: u.Time, MountPoint: u.Dir, Bytes: u.Bytes, Inodes: u.Inodes}, nil
}

func (i *images) close() error { return i.store.Close() }
