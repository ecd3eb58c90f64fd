package pod

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

func withVolumes(refs ...string) ContainerConfig {
	cfg := containerConfig("c")
	cfg.Mounts = []Mount{{ContainerPath: "/host", HostPath: "/host"}}
	for _, ref := range refs {
		cfg.Mounts = append(cfg.Mounts, Mount{ContainerPath: "/" + ref, Image: ref, Readonly: true})
	}
	return cfg
}

// TestVolumeImagesAreHeld as long as the container is there, over a restart too.
func TestVolumeImagesAreHeld(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.CreateContainer(t.Context(), string(s), withVolumes("models", "img", "models"))
	if err != nil {
		t.Fatal(err)
	}
	held := func() []string { return slices.Sorted(maps.Keys(w.images[c])) }
	if got := held(); !slices.Equal(got, []string{"img", "models"}) {
		t.Errorf("held: %v", got)
	}
	w.kill()
	clear(w.images)
	m = w.start(t)
	if got := held(); !slices.Equal(got, []string{"img", "models"}) {
		t.Errorf("held after a restart: %v", got)
	}
	removeAll(t, m)
	w.mustBeEmpty(t)
}

func TestMissingVolumeImageLeavesNothing(t *testing.T) {
	w := newWorld()
	m := w.start(t)
	s, err := m.RunSandbox(t.Context(), sandboxConfig("a", ModeContainer))
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.CreateContainer(t.Context(), string(s), withVolumes("models", "missing"))
	if !errors.Is(err, ErrImageVolume) || !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if len(w.containers)+len(w.images) != 0 {
		t.Errorf("containers %v, images %v", w.containers, w.images)
	}
}
