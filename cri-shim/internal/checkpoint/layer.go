package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/pkg/archive"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// opaque is what a layer calls the mark of a directory that hides the ones below it (image-spec, layer.md): the prefix
// of whiteouts and this.
const opaque = ".wh..opq"

// writeLayer writes the upper directory of an overlay as a layer of an image: whiteouts are files with a prefix.
func writeLayer(ctx context.Context, w io.Writer, upper string) error {
	cw := archive.NewChangeWriter(w, upper)
	err := filepath.WalkDir(upper, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil || path == upper {
			return err
		}
		name, err := filepath.Rel(upper, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name = "/" + name
		if isWhiteout(path, info) {
			return cw.HandleChange(continuity.ChangeKindDelete, name, nil, nil)
		}
		if err := cw.HandleChange(continuity.ChangeKindAdd, name, info, nil); err != nil || !d.IsDir() {
			return err
		}
		if has(path, "trusted.overlay.redirect") {
			return fmt.Errorf("%s was renamed by reference (overlayfs redirect_dir), which a layer cannot say: %w", name, errdefs.ErrNotImplemented)
		}
		if has(path, "trusted.overlay.opaque") {
			return cw.HandleChange(continuity.ChangeKindDelete, filepath.Join(name, opaque), nil, nil)
		}
		return nil
	})
	return errors.Join(err, cw.Close())
}

// isWhiteout: overlayfs marks what was deleted by a character device 0:0.
func isWhiteout(path string, info fs.FileInfo) bool {
	if info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Rdev == 0
}

func has(path, attribute string) bool {
	value := make([]byte, 4096)
	n, err := unix.Lgetxattr(path, attribute, value)
	return err == nil && !bytes.Equal(value[:n], []byte("n"))
}
