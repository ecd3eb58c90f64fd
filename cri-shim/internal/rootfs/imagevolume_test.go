package rootfs

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// volumeImage has a file, and links that lead about.
func volumeImage(t *testing.T) pod.Image {
	t.Helper()
	dir := t.TempDir()
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "models/small"), 0o755),
		os.WriteFile(filepath.Join(dir, "models/small/weights"), []byte("1 2 3"), 0o644),
		os.Symlink("/models", filepath.Join(dir, "absolute")),
		os.Symlink("../../../../../../../../etc", filepath.Join(dir, "out")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return pod.Image{ID: "sha256:volume", Layers: []string{dir}}
}

func TestImageVolume(t *testing.T) {
	for name, c := range map[string]struct {
		sub, shows string // what is below it
		want       error
	}{
		"all":              {"", "models/small/weights", nil},
		"directory":        {"models/small", "weights", nil},
		"file":             {"models/small/weights", "", nil},
		"by a link":        {"absolute/small", "weights", nil},
		"missing":          {"models/large", "", errdefs.ErrInvalidArgument},
		"below a file":     {"models/small/weights/x", "", errdefs.ErrInvalidArgument},
		"out of the image": {"out/passwd", "", errdefs.ErrInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			s := sandbox("s8")
			h.sandbox(s)
			checkImageVolume(t, h, s, c.sub, c.shows, c.want)
		})
	}
}

func TestImageVolumeOfAMappedPod(t *testing.T) {
	h := newHost(t)
	s := mappedSandbox(t, h, "s9")
	source := checkImageVolume(t, h, s, "models/small", "weights", nil)
	if uid, _ := owner(t, filepath.Join(source, "weights")); uid != 200000 {
		t.Errorf("the volume's file is of %d", uid)
	}
}

// checkImageVolume prepares a container with an image volume and looks at what its configuration mounts. It
// removes it at the end of the test, upon which nothing is left.
func checkImageVolume(t *testing.T, h *host, s pod.Sandbox, sub, shows string, want error) (source string) {
	t.Helper()
	c := container("c8", "true")
	c.Config.Mounts = []pod.Mount{{
		ContainerPath: "/vol", Image: "volume", SubPath: sub, Readonly: true, Options: []string{"noexec"},
		UIDs: []pod.IDMapping{{HostID: 5, Length: 1}}, GIDs: []pod.IDMapping{{HostID: 5, Length: 1}},
	}}
	t.Cleanup(func() {
		if err := h.m.Remove(t.Context(), s.ID, c.ID); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(h.layout.Bundle("c8")); !errors.Is(err, os.ErrNotExist) {
			t.Error("the bundle is left")
		}
	})
	images := pod.ContainerImages{Root: h.image(nil), Volumes: map[string]pod.Image{"volume": volumeImage(t)}}
	_, _, err := h.m.Prepare(t.Context(), s, c, images)
	if want != nil {
		if !errors.Is(err, want) || !errors.Is(err, pod.ErrImageVolume) {
			t.Errorf("got %v", err)
		}
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(h.layout.Bundle("c8"), "config.json"))
	var spec specs.Spec
	if err = errors.Join(err, json.Unmarshal(data, &spec)); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/vol" })
	m := spec.Mounts[i]
	if !slices.Contains(m.Options, "ro") || !slices.Contains(m.Options, "noexec") || len(m.UIDMappings) != 0 {
		t.Errorf("mounted with %v, mapped %v", m.Options, m.UIDMappings)
	}
	got, err := os.ReadFile(filepath.Join(m.Source, shows))
	if err != nil || string(got) != "1 2 3" {
		t.Errorf("%s holds %q, %v", m.Source, got, err)
	}
	if err := os.WriteFile(filepath.Join(m.Source, "new"), nil, 0o644); err == nil {
		t.Error("the mounted image is writable")
	}
	return m.Source
}
