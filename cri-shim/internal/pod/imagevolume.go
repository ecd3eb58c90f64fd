package pod

import (
	"errors"
	"fmt"
	"slices"
)

// ErrImageVolume is the class of a container that cannot be made because of an image it was to mount.
var ErrImageVolume = errors.New("image volume cannot be mounted")

// ContainerImages are the images of one container.
type ContainerImages struct {
	Root    Image
	Volumes map[string]Image // by the reference in Mount.Image
}

// acquireImages holds all images of a new container, and notes them in its record, which is not on disk yet. When
// it fails it holds none.
func (m *Manager) acquireImages(c *Container) (ContainerImages, error) {
	root, err := m.Images.Acquire(c.Config.Image, c.ID)
	if err != nil {
		return ContainerImages{}, fmt.Errorf("image %.256q: %w", c.Config.Image, err)
	}
	c.ImageID = root.ID
	out := ContainerImages{Root: root}
	for _, v := range c.Config.Mounts {
		if v.Image == "" {
			continue
		}
		img, err := m.Images.Acquire(v.Image, c.ID)
		if err != nil {
			err = fmt.Errorf("mount at %.200q: image %.256q: %w: %w", v.ContainerPath, v.Image, ErrImageVolume, err)
			return ContainerImages{}, errors.Join(err, m.releaseImages(*c))
		}
		if out.Volumes == nil {
			out.Volumes = map[string]Image{}
		}
		out.Volumes[v.Image] = img
		if img.ID != root.ID && !slices.Contains(c.VolumeImageIDs, img.ID) {
			c.VolumeImageIDs = append(c.VolumeImageIDs, img.ID)
		}
	}
	return out, nil
}

// holdImages holds them anew after a start.
func (m *Manager) holdImages(c Container) error {
	var faults []error
	for _, id := range c.imageIDs() {
		if _, err := m.Images.Acquire(id, c.ID); err != nil {
			faults = append(faults, fmt.Errorf("image %s: %w", id, err))
		}
	}
	return errors.Join(faults...)
}

func (m *Manager) releaseImages(c Container) error {
	var faults []error
	for _, id := range c.imageIDs() {
		faults = append(faults, m.Images.Release(id, c.ID))
	}
	return errors.Join(faults...)
}

func (c Container) imageIDs() []string { return append([]string{c.ImageID}, c.VolumeImageIDs...) }
