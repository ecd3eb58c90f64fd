package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/bundle"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func (m *Maker) imagesDir(id pod.ID) string {
	return filepath.Join(m.opt.Layout.Bundle(string(id)), "images")
}

// imageVolume mounts the image of the i-th mount read-only, and finds what the mount is to show of it.
func (m *Maker) imageVolume(s pod.Sandbox, id pod.ID, i int, v pod.Mount, img pod.Image, label string) (bundle.Volume, error) {
	dir := filepath.Join(m.imagesDir(id), strconv.Itoa(i))
	empty := filepath.Join(m.imagesDir(id), "empty")
	if err := errors.Join(os.MkdirAll(dir, 0o711), os.MkdirAll(empty, 0o755)); err != nil {
		return bundle.Volume{}, err
	}
	if len(img.Layers) == 0 {
		return bundle.Volume{}, fmt.Errorf("image %s has no layers: %w", img.ID, errdefs.ErrInvalidArgument)
	}
	layers := append([]string{empty}, img.Layers...) // overlayfs wants two, and shows no whiteouts
	var err error
	if s.Config.Namespaces.User == nil {
		err = mountOverlay(dir, layers, "", "", label)
	} else {
		err = mountMapped(dir, layers, "", "", label, m.userns(s))
	}
	if err != nil {
		return bundle.Volume{}, err
	}
	source, err := inside(dir, v.SubPath)
	if err != nil {
		return bundle.Volume{}, err
	}
	v.UIDs, v.GIDs = nil, nil // mapped already
	return bundle.Volume{Mount: v, Source: source}, nil
}

// inside returns the real path of sub below dir. Links lead nowhere else; the tree is read-only, so that they lead
// there later too.
func inside(dir, sub string) (string, error) {
	if sub == "" {
		return dir, nil
	}
	r, err := openRoot(dir)
	if err != nil {
		return "", err
	}
	defer r.close()
	f, err := r.open(sub, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", fmt.Errorf("image_sub_path %.200q: is not in the image: %w", sub, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return "", fmt.Errorf("image_sub_path %.200q: must be a file or a directory: %w", sub, errdefs.ErrInvalidArgument)
	}
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
}

// unmountImages undoes imageVolume, also one that a crash interrupted.
func (m *Maker) unmountImages(id pod.ID) error {
	entries, err := os.ReadDir(m.imagesDir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var faults []error
	for _, e := range entries {
		faults = append(faults, unmount(filepath.Join(m.imagesDir(id), e.Name())))
	}
	return errors.Join(faults...)
}
