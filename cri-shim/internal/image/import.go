package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Imported is an image of an archive.
type Imported struct{ Name, ID string }

// Import takes in the images of a tar archive, which may be compressed, as if they had been pulled: an OCI image layout
// (image-spec, image-layout.md) or what docker save writes. An archive of one image may be given the name that it shall
// have; else each must have one of its own. An import that fails leaves nothing behind, but for images that were recorded
// before the metadata could not be written any more. What is no such archive, or has
// no name, is errdefs.ErrInvalidArgument; one without an image for this machine, errdefs.ErrNotFound; what the node's
// verifiers refuse, ErrVerification.
func (s *Store) Import(ctx context.Context, r io.Reader, name string) ([]Imported, error) {
	if name != "" {
		var err error
		if name, err = normalize(name); err != nil {
			return nil, err
		}
	}
	var out []Imported
	err := s.leased(scoped(ctx), func(ctx context.Context) (err error) {
		out, err = s.importAll(ctx, r, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	return out, nil
}

func (s *Store) importAll(ctx context.Context, r io.Reader, name string) ([]Imported, error) {
	targets, err := s.readArchive(ctx, r)
	if err != nil {
		return nil, err
	}
	names, err := namesOf(targets, name)
	if err != nil {
		return nil, err
	}
	for i, target := range targets {
		if err := s.verify(ctx, names[i], target); err != nil {
			return nil, fmt.Errorf("%s: %w", names[i], err)
		}
		if err := s.unpack(ctx, target, isStored); err != nil {
			return nil, fmt.Errorf("%s: %w", names[i], err)
		}
	}
	var out []Imported
	for i, target := range targets {
		id, err := s.record(ctx, names[i], target)
		if err != nil {
			return nil, err
		}
		out = append(out, Imported{names[i], id})
	}
	return out, nil
}

// isStored gets nothing: what the archive lacks is found out by who reads it.
func isStored(context.Context, imagespec.Descriptor) ([]imagespec.Descriptor, error) { return nil, nil }

// readArchive stores what is in an archive, and returns its images for this machine.
func (s *Store) readArchive(ctx context.Context, r io.Reader) ([]imagespec.Descriptor, error) {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer plain.Close()
	top, err := archive.ImportIndex(ctx, s.content, plain)
	if err != nil {
		var errno syscall.Errno // of the disk, not of the archive
		if ctx.Err() == nil && !errors.As(err, &errno) {
			err = fmt.Errorf("%w: want an OCI image layout or what docker save writes, as a tar archive: %w", err, errdefs.ErrInvalidArgument)
		}
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	if top.Size > maxManifest {
		return nil, fmt.Errorf("index.json has %d bytes, at most %d are read: %w", top.Size, maxManifest, errdefs.ErrInvalidArgument)
	}
	data, err := content.ReadBlob(ctx, s.content, top)
	if err != nil {
		return nil, fmt.Errorf("read index.json: %w", err)
	}
	var index imagespec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("read index.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var out []imagespec.Descriptor
	for _, m := range index.Manifests {
		if m.Platform == nil || platforms.Default().Match(*m.Platform) {
			out = append(out, m)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no image for %s in the archive, of %d: %w", platforms.DefaultString(), len(index.Manifests), errdefs.ErrNotFound)
	}
	return out, nil
}

// namesOf returns the full name of each image.
func namesOf(targets []imagespec.Descriptor, given string) ([]string, error) {
	if given != "" {
		if len(targets) != 1 {
			return nil, fmt.Errorf("name %q: the archive has %d images, and a name can be given to one: %w", given, len(targets), errdefs.ErrInvalidArgument)
		}
		return []string{given}, nil
	}
	var out []string
	for _, t := range targets {
		name := t.Annotations[images.AnnotationImageName]
		if ref := t.Annotations[imagespec.AnnotationRefName]; name == "" {
			// By itself "1.0" is a tag, and would be read as an image of that name.
			if !strings.ContainsAny(ref, "/:@") {
				return nil, fmt.Errorf("image %s in the archive has no full name (%s is %.200q): give one: %w",
					t.Digest, imagespec.AnnotationRefName, ref, errdefs.ErrInvalidArgument)
			}
			name = ref
		}
		full, err := normalize(name)
		if err != nil {
			return nil, err
		}
		out = append(out, full)
	}
	return out, nil
}
