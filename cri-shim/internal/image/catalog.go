package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Image is one local image under all its names.
type Image struct {
	ID      string   // "sha256:…" of its configuration
	Tags    []string // docker.io/library/x:tag, sorted
	Digests []string // docker.io/library/x@sha256:…, sorted
	Size    int64    // bytes of its manifest, configuration and compressed layers
	Config  imagespec.Image
	RawJSON json.RawMessage // Config as it came
	Layers  []string        // unpacked directories, the lowest first

	names []string // in the metadata
}

// catalog is an immutable picture of all images.
type catalog struct {
	byID   map[string]Image
	byName map[string]string // tag or digest reference → id
}

// heldPrefix begins the names of records that keep a removed image on disk for its containers.
const heldPrefix = "held/"

// Images returns all images, each once. It never waits.
func (s *Store) Images() []Image {
	byID := s.view.Load().byID
	out := make([]Image, 0, len(byID))
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		out = append(out, byID[id])
	}
	return out
}

// Image finds an image by name, name and tag, name and digest, id with or without sha256:, or the unique
// beginning of an id. It is errdefs.ErrNotFound when there is none, and never waits.
func (s *Store) Image(ref string) (Image, error) {
	return s.view.Load().find(ref)
}

func (c *catalog) find(ref string) (Image, error) {
	if img, ok := c.byID[ref]; ok {
		return img, nil
	}
	if name, err := normalize(ref); err == nil {
		if id, ok := c.byName[name]; ok {
			return c.byID[id], nil
		}
	}
	if img, ok := c.byBeginning(strings.TrimPrefix(ref, "sha256:")); ok {
		return img, nil
	}
	return Image{}, fmt.Errorf("image %.256q: %w", ref, errdefs.ErrNotFound)
}

// byBeginning finds by hexadecimal digits; fewer than four say too little.
func (c *catalog) byBeginning(digits string) (Image, bool) {
	if len(digits) < 4 || strings.Trim(digits, "0123456789abcdef") != "" {
		return Image{}, false
	}
	var found Image
	for id, img := range c.byID {
		if strings.HasPrefix(id, "sha256:"+digits) {
			if found.ID != "" {
				return Image{}, false
			}
			found = img
		}
	}
	return found, found.ID != ""
}

// normalize brings a reference into the form of the metadata: docker.io/library/x:latest, or name@digest, where
// the digest wins over a tag.
func normalize(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("image reference %.256q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	return named.String(), nil
}

// reload reads all records. An image that is lost in part is dropped, so that the next pull makes it good. One that
// cannot be read now, on a full disk say, is left out and stays on disk: containers may run on it. The caller holds mu.
func (s *Store) reload(ctx context.Context) error {
	records, err := s.images.List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	c := &catalog{byID: map[string]Image{}, byName: map[string]string{}}
	s.held = map[string]Image{}
	known := s.read
	s.read = make(map[digest.Digest]Image, len(known))
	for _, r := range records {
		img, ok := known[r.Target.Digest]
		if !ok {
			if img, err = s.readImage(ctx, r.Target); err != nil {
				if err := s.setAside(ctx, r.Name, err); err != nil {
					return err
				}
				continue
			}
			known[r.Target.Digest] = img
		}
		s.read[r.Target.Digest] = img
		if strings.HasPrefix(r.Name, heldPrefix) {
			s.held[img.ID] = img
			continue
		}
		c.add(img, r.Name)
	}
	s.view.Store(c)
	return nil
}

// setAside drops an image that fault says is lost.
func (s *Store) setAside(ctx context.Context, name string, fault error) error {
	if !errors.Is(fault, errdefs.ErrNotFound) && !errors.Is(fault, errdefs.ErrDataLoss) {
		s.log.Error("an image cannot be read and is left out", "image", name, "err", fault)
		return nil
	}
	s.log.Error("an image is broken and is dropped", "image", name, "err", fault)
	if err := s.images.Delete(ctx, name); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("drop image %s: %w", name, err)
	}
	return nil
}

func (c *catalog) add(img Image, name string) {
	if have, ok := c.byID[img.ID]; ok {
		img = have
	}
	img.names = append(slices.Clone(img.names), name)
	if strings.Contains(name, "@") {
		img.Digests = append(slices.Clone(img.Digests), name)
	} else {
		img.Tags = append(slices.Clone(img.Tags), name)
	}
	slices.Sort(img.Tags)
	slices.Sort(img.Digests)
	c.byID[img.ID] = img
	c.byName[name] = img.ID
}

// readImage reads what the catalog shows from the content store.
func (s *Store) readImage(ctx context.Context, target imagespec.Descriptor) (Image, error) {
	platform := platforms.Default()
	manifest, err := images.Manifest(ctx, s.content, target, platform)
	if err != nil {
		return Image{}, fmt.Errorf("read manifest: %w", err)
	}
	raw, err := content.ReadBlob(ctx, s.content, manifest.Config)
	if err != nil {
		return Image{}, fmt.Errorf("read configuration: %w", err)
	}
	img := Image{ID: manifest.Config.Digest.String(), RawJSON: raw, Size: manifest.Config.Size}
	for _, l := range manifest.Layers {
		img.Size += l.Size
	}
	if err := json.Unmarshal(raw, &img.Config); err != nil {
		return Image{}, fmt.Errorf("read configuration: %w: %w", err, errdefs.ErrDataLoss)
	}
	img.Layers, err = s.layerDirs(ctx, img.Config.RootFS.DiffIDs)
	return img, err
}

// keptBy is the label of a snapshot that the collector keeps as long as another one (containerd, docs/garbage-collection.md).
const keptBy = "containerd.io/gc.bref.snapshot." + snapshotter

// layerDirs asks the snapshotter where the layers are, by a view of them. The view stays as long as they do: to make one
// takes room, and after a start on a full disk the images must be known to be removed.
func (s *Store) layerDirs(ctx context.Context, diffs []digest.Digest) ([]string, error) {
	if len(diffs) == 0 {
		return nil, nil
	}
	chain := identity.ChainID(diffs).String()
	key := "look-" + chain
	mounts, err := s.layers.Mounts(ctx, key)
	if errors.Is(err, errdefs.ErrNotFound) {
		mounts, err = s.layers.View(ctx, key, chain, snapshots.WithLabels(map[string]string{keptBy: chain}))
	}
	if err != nil {
		return nil, fmt.Errorf("find layers: %w", err)
	}
	dirs := dirsOf(mounts)
	if len(dirs) != len(diffs) {
		return nil, fmt.Errorf("find layers: %d directories of %d layers", len(dirs), len(diffs))
	}
	for _, dir := range dirs {
		switch fi, err := os.Stat(dir); {
		case errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir():
			return nil, fmt.Errorf("layer %s is not there: %w", dir, errdefs.ErrDataLoss)
		case err != nil:
			return nil, fmt.Errorf("find layers: %w", err)
		}
	}
	return dirs, nil
}

// dirsOf reads the directories out of the mounts of a read-only snapshot: a bind mount of one layer, or an
// overlay, the uppermost first.
func dirsOf(mounts []mount.Mount) []string {
	for _, m := range mounts {
		if m.Type == "bind" {
			return []string{m.Source}
		}
		for _, opt := range m.Options {
			if lower, ok := strings.CutPrefix(opt, "lowerdir="); ok {
				dirs := strings.Split(lower, ":")
				slices.Reverse(dirs)
				return dirs
			}
		}
	}
	return nil
}

// Remove forgets an image with all its names, in all repositories; absent is success. It is gone from the
// lists when Remove returns; the disk follows, for layers in use when their last container is gone.
func (s *Store) Remove(ctx context.Context, ref string) error {
	ctx = scoped(context.WithoutCancel(ctx)) // half a removal helps nobody
	s.mu.Lock()
	defer s.mu.Unlock()
	img, err := s.Image(ref)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	record, err := s.images.Get(ctx, img.names[0])
	if err != nil {
		return fmt.Errorf("remove image %s: %w", img.ID, err)
	}
	if len(s.holds[img.ID]) > 0 {
		_, err := s.images.Create(ctx, images.Image{Name: heldPrefix + img.ID, Target: record.Target})
		if err != nil && !errors.Is(err, errdefs.ErrAlreadyExists) {
			return fmt.Errorf("keep image %s for its containers: %w", img.ID, err)
		}
	}
	for _, name := range img.names {
		if err := s.images.Delete(ctx, name); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return fmt.Errorf("remove image %s: %w", name, err)
		}
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	s.Collect()
	return nil
}

// Acquire implements pod.Images.
func (s *Store) Acquire(ref string, owner pod.ID) (pod.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, err := s.Image(ref)
	if err != nil {
		var ok bool
		if img, ok = s.held[ref]; !ok {
			return pod.Image{}, err
		}
	}
	if s.holds[img.ID] == nil {
		s.holds[img.ID] = map[pod.ID]bool{}
	}
	s.holds[img.ID][owner] = true
	return pod.Image{ID: img.ID, Digests: img.Digests, Layers: img.Layers, Config: img.Config.Config}, nil
}

// Release implements pod.Images.
func (s *Store) Release(id string, owner pod.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holds[id], owner)
	if len(s.holds[id]) > 0 {
		return nil
	}
	delete(s.holds, id)
	if _, removed := s.held[id]; removed {
		s.Collect()
	}
	return nil
}

// dropUnheld forgets removed images that nobody holds any more.
func (s *Store) dropUnheld(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.held {
		if len(s.holds[id]) > 0 {
			continue
		}
		if err := s.images.Delete(ctx, heldPrefix+id); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
		delete(s.held, id)
	}
	return nil
}
