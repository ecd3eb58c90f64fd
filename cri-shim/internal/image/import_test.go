package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerArchive is an archive as docker save writes it.
func dockerArchive(t *testing.T, all map[string]v1.Image) []byte {
	t.Helper()
	byRef := map[name.Reference]v1.Image{}
	for ref, img := range all {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		byRef[tag] = img
	}
	var out bytes.Buffer
	if err := tarball.MultiRefWrite(byRef, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// ociArchive is an OCI image layout as an archive. Each addition may have annotations and a platform.
func ociArchive(t *testing.T, all ...mutate.IndexAddendum) []byte {
	t.Helper()
	dir := t.TempDir()
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, all...)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func named(img v1.Image, key, value string) mutate.IndexAddendum {
	return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Annotations: map[string]string{key: value}}}
}

func (f *fixture) files(id string) string {
	f.t.Helper()
	img, err := f.s.Image(id)
	if err != nil {
		f.t.Fatal(err)
	}
	var out []string
	for _, dir := range img.Layers {
		err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				data, _ := os.ReadFile(filepath.Join(dir, path))
				out = append(out, path+" "+string(data[:1]))
			}
			return err
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
	return strings.Join(out, ", ")
}

func TestImport(t *testing.T) {
	f := newFixture(t, nil)
	a, b := f.image("a", 2), f.image("b", 1)
	idOf := func(img v1.Image) string {
		h, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		return h.String()
	}
	foreign, err := mutate.ConfigFile(b, &v1.ConfigFile{OS: "linux", Architecture: "s390x"})
	if err != nil {
		t.Fatal(err)
	}
	other := mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}}
	both := mutate.AppendManifests(empty.Index, other, mutate.IndexAddendum{Add: a})
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(dockerArchive(t, map[string]v1.Image{"app:1": a})); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		archive []byte
		name    string
		want    map[string]v1.Image
	}{
		"docker save":          {dockerArchive(t, map[string]v1.Image{"app:1": a}), "", map[string]v1.Image{"docker.io/library/app:1": a}},
		"two":                  {dockerArchive(t, map[string]v1.Image{"app:1": a, "example.test/b:2": b}), "", map[string]v1.Image{"docker.io/library/app:1": a, "example.test/b:2": b}},
		"compressed":           {zipped.Bytes(), "", map[string]v1.Image{"docker.io/library/app:1": a}},
		"under another name":   {dockerArchive(t, map[string]v1.Image{"app:1": a}), "example.test/x", map[string]v1.Image{"example.test/x:latest": a}},
		"containerd's name":    {ociArchive(t, named(a, images.AnnotationImageName, "example.test/c:1")), "", map[string]v1.Image{"example.test/c:1": a}},
		"a full name":          {ociArchive(t, named(a, imagespec.AnnotationRefName, "example.test/d")), "", map[string]v1.Image{"example.test/d:latest": a}},
		"a tag, with a name":   {ociArchive(t, named(a, imagespec.AnnotationRefName, "1.0")), "e:3", map[string]v1.Image{"docker.io/library/e:3": a}},
		"one of two platforms": {ociArchive(t, other, named(a, imagespec.AnnotationRefName, "example.test/f:1")), "", map[string]v1.Image{"example.test/f:1": a}},
		"an index in it":       {ociArchive(t, mutate.IndexAddendum{Add: both}), "g:1", map[string]v1.Image{"docker.io/library/g:1": a}},
	} {
		got, err := f.s.Import(t.Context(), bytes.NewReader(c.archive), c.name)
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%s: got %v, %v", what, got, err)
			continue
		}
		for _, i := range got {
			img, err := f.s.Image(i.Name)
			if want := c.want[i.Name]; err != nil || want == nil || i.ID != idOf(want) || img.ID != i.ID || !slices.Contains(img.Tags, i.Name) {
				t.Errorf("%s: got %+v, %+v, %v", what, i, img, err)
			}
		}
	}
	if got := f.files(idOf(a)); got != "dir/0 a, dir/1 a" {
		t.Errorf("files: %s", got)
	}

	// A name is the newer image's, also when it was pulled before.
	f.push("app:1", a)
	f.pull("example.test/app:1")
	if _, err := f.s.Import(t.Context(), bytes.NewReader(dockerArchive(t, map[string]v1.Image{"example.test/app:1": b})), ""); err != nil {
		t.Fatal(err)
	}
	if img, err := f.s.Image("example.test/app:1"); err != nil || img.ID != idOf(b) {
		t.Errorf("after an import: %+v, %v", img, err)
	}

	f.reopen()
	f.s.Collect()
	time.Sleep(100 * time.Millisecond)
	if got := f.files(idOf(a)) + "; " + f.files(idOf(b)); got != "dir/0 a, dir/1 a; dir/0 b" {
		t.Errorf("files after a restart: %s", got)
	}
	for _, img := range f.s.Images() {
		if err := f.s.Remove(t.Context(), img.ID); err != nil {
			t.Error(err)
		}
	}
	f.waitFor("all to go", f.empty)
}

func (f *fixture) empty() bool {
	blobs, _ := filepath.Glob(filepath.Join(f.dir, "content/blobs/sha256/*"))
	begun, _ := filepath.Glob(filepath.Join(f.dir, "content/ingest/*"))
	return len(blobs)+len(begun)+f.layerCount() == 0
}

// TestImportRefused: what cannot be imported says why, and nothing of it stays.
func TestImportRefused(t *testing.T) {
	f := newFixture(t, nil)
	a, b := f.image("a", 2), f.image("b", 1)
	whole := dockerArchive(t, map[string]v1.Image{"app:1": a})
	lying, err := mutate.ConfigFile(a, &v1.ConfigFile{OS: "linux", Architecture: "s390x"})
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := b.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	wrong = wrong.DeepCopy()
	wrong.RootFS.DiffIDs[0].Hex = strings.Repeat("0", 64)
	mixed, err := mutate.ConfigFile(b, wrong)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		archive io.Reader
		name    string
		class   error
		text    string
	}{
		"nothing":           {strings.NewReader(""), "", errdefs.ErrInvalidArgument, "docker save"},
		"no archive":        {strings.NewReader(strings.Repeat("x", 2000)), "", errdefs.ErrInvalidArgument, "docker save"},
		"another archive":   {bytes.NewReader(tarOf(t, "a/b", "text")), "", errdefs.ErrInvalidArgument, "docker save"},
		"half of one":       {bytes.NewReader(whole[:len(whole)/2]), "", errdefs.ErrInvalidArgument, "EOF"},
		"a bad name":        {bytes.NewReader(whole), "Not A Name", errdefs.ErrInvalidArgument, "Not A Name"},
		"a name for two":    {bytes.NewReader(dockerArchive(t, map[string]v1.Image{"x:1": a, "y:1": b})), "z:1", errdefs.ErrInvalidArgument, "2 images"},
		"no name":           {bytes.NewReader(ociArchive(t, mutate.IndexAddendum{Add: a})), "", errdefs.ErrInvalidArgument, "no full name"},
		"only a tag":        {bytes.NewReader(ociArchive(t, named(a, imagespec.AnnotationRefName, "1.0"))), "", errdefs.ErrInvalidArgument, `"1.0"`},
		"another platform":  {bytes.NewReader(dockerArchive(t, map[string]v1.Image{"app:1": lying})), "", errdefs.ErrNotFound, "no image for"},
		"layers of another": {bytes.NewReader(dockerArchive(t, map[string]v1.Image{"app:1": mixed})), "", nil, "wrong diff id"},
		"one good, one not": {bytes.NewReader(dockerArchive(t, map[string]v1.Image{"good:1": a, "bad:1": mixed})), "", nil, "wrong diff id"},
		"a reader's fault":  {io.MultiReader(bytes.NewReader(whole[:3000]), failing{}), "", nil, "no luck"},
	} {
		got, err := f.s.Import(t.Context(), c.archive, c.name)
		if err == nil || c.class != nil && !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, %v", what, got, err)
		}
		if all := f.s.Images(); len(all) != 0 {
			t.Fatalf("%s: left %+v", what, all)
		}
	}
	f.s.Collect()
	f.waitFor("all to go", f.empty)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("no luck") }

func tarOf(t *testing.T, path, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := w.WriteHeader(&tar.Header{Name: path, Size: int64(len(text)), Mode: 0o644})
	_, writeErr := fmt.Fprint(w, text)
	if err := errors.Join(err, writeErr, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
