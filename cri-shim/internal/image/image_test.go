package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil/nettest"
	"github.com/podwright/podwright/test/images"
)

// fixture is a store beside a registry on loopback that serves as example.test and other.test.
type fixture struct {
	t     *testing.T
	dir   string
	hosts string
	reg   *images.Registry
	s     *Store
}

func newFixture(t *testing.T, wrap func(http.Handler) http.Handler) *fixture {
	nettest.RequireRoot(t)
	reg, err := images.Serve("127.0.0.1:0", wrap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{t: t, dir: t.TempDir(), hosts: t.TempDir(), reg: reg}
	if err := reg.WriteHosts(f.hosts, "example.test", "other.test"); err != nil {
		t.Fatal(err)
	}
	f.open()
	t.Cleanup(func() {
		if err := f.s.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	s, err := New(context.Background(), Config{
		Dir: f.dir, RegistryConfigDir: f.hosts, MaxParallelDownloads: 3, ProgressTimeout: time.Minute, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.s = s
}

func (f *fixture) reopen() {
	f.t.Helper()
	if err := f.s.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.open()
}

// image makes an image of n layers that differ from those of another seed.
func (f *fixture) image(seed string, n int) v1.Image {
	f.t.Helper()
	img := empty.Image
	for i := range n {
		layer, err := images.Layer(images.File{Path: "dir/", Mode: 0o755}, images.File{Path: fmt.Sprintf("dir/%d", i), Mode: 0o644, Data: []byte(strings.Repeat(seed, 5000))})
		if err != nil {
			f.t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			f.t.Fatal(err)
		}
	}
	img, err := images.Configure(img, func(c *v1.Config) { c.Cmd = []string{seed}; c.User = "7:8" })
	if err != nil {
		f.t.Fatal(err)
	}
	return img
}

func (f *fixture) push(ref string, img v1.Image, opts ...remote.Option) v1.Hash {
	f.t.Helper()
	d, err := f.reg.Push(ref, img, opts...)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

func (f *fixture) pull(ref string) string {
	f.t.Helper()
	id, err := f.s.Pull(f.t.Context(), ref, Auth{})
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func TestPullShowsOneImageUnderAllNames(t *testing.T) {
	f := newFixture(t, nil)
	img := f.image("a", 3)
	digest := f.push("app:1", img)
	f.push("app:latest", img)
	f.push("copy:x", img)
	want, _ := img.ConfigName()
	for _, ref := range []string{"example.test/app:1", "example.test/app", "example.test/app@" + digest.String(), "example.test/app:9@" + digest.String(), "other.test/copy:x"} {
		if id := f.pull(ref); id != want.String() {
			t.Errorf("%s: id %s, want %s", ref, id, want)
		}
	}
	all := f.s.Images()
	if len(all) != 1 {
		t.Fatalf("%d images", len(all))
	}
	if got := all[0].Tags; !slices.Equal(got, []string{"example.test/app:1", "example.test/app:latest", "other.test/copy:x"}) {
		t.Errorf("tags %v", got)
	}
	if got := all[0].Digests; !slices.Equal(got, []string{"example.test/app@" + digest.String(), "other.test/copy@" + digest.String()}) {
		t.Errorf("digests %v", got)
	}
	if all[0].Config.Config.User != "7:8" || all[0].Size < 100 || len(all[0].Layers) != 3 {
		t.Errorf("got %+v", all[0])
	}
	for i, dir := range all[0].Layers {
		if _, err := os.Stat(filepath.Join(dir, "dir", fmt.Sprint(i))); err != nil {
			t.Errorf("layer %d: %v", i, err)
		}
	}
	f.reopen()
	hex := strings.TrimPrefix(want.String(), "sha256:")
	for _, ref := range []string{want.String(), hex, hex[:8], "example.test/app", "example.test/app:1", "example.test/app@" + digest.String(), "other.test/copy:x"} {
		if got, err := f.s.Image(ref); err != nil || got.ID != want.String() {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for _, ref := range []string{"example.test/app:2", hex[:3], "", "///", "other.test/app:1"} {
		if _, err := f.s.Image(ref); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

func TestRemoveTakesAllNames(t *testing.T) {
	f := newFixture(t, nil)
	img := f.image("a", 2)
	f.push("app:1", img)
	f.push("copy:x", img)
	f.push("else:1", f.image("b", 1))
	f.pull("example.test/app:1")
	f.pull("other.test/copy:x")
	f.pull("example.test/else:1")
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := f.s.Remove(t.Context(), "other.test/copy:x"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all := f.s.Images(); len(all) != 1 || all[0].Tags[0] != "example.test/else:1" {
		t.Errorf("got %+v", all)
	}
	if _, err := f.s.Image("example.test/app:1"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	f.waitFor("the layers to go", func() bool { return f.layerCount() == 2 }) // one, and the view of it
}

func (f *fixture) layerCount() int {
	dirs, _ := filepath.Glob(filepath.Join(f.dir, "snapshots/snapshots/*"))
	return len(dirs)
}

func (f *fixture) waitFor(what string, is func() bool) {
	f.t.Helper()
	for range 500 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.t.Errorf("waited in vain for %s", what)
}

func TestLayersStayWhileHeld(t *testing.T) {
	f := newFixture(t, nil)
	f.push("app:1", f.image("a", 2))
	id := f.pull("example.test/app:1")
	held, err := f.s.Acquire("example.test/app:1", "c1")
	if err != nil || held.ID != id || len(held.Layers) != 2 || len(held.Digests) != 1 || !strings.HasPrefix(held.Digests[0], "example.test/app@sha256:") {
		t.Fatalf("got %+v, %v", held, err)
	}
	if err := f.s.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if len(f.s.Images()) != 0 {
		t.Error("it is still listed")
	}
	if _, err := f.s.Acquire("example.test/app:1", "c2"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("by name: %v", err)
	}
	f.reopen() // holds are forgotten, and nothing is collected until they are back
	if _, err := f.s.Acquire(id, "c1"); err != nil {
		t.Fatal(err)
	}
	f.s.Collect()
	time.Sleep(100 * time.Millisecond)
	for _, dir := range held.Layers {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if err := f.s.Release(id, "c1"); err != nil {
		t.Fatal(err)
	}
	f.waitFor("the layers to go", func() bool { return f.layerCount() == 0 })
}

func TestPullFailures(t *testing.T) {
	f := newFixture(t, images.CorruptLayers("bad"))
	random := make([]byte, 100_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // does not compress
	layer, err := images.Layer(images.File{Path: "x", Mode: 0o644, Data: random})
	if err != nil {
		t.Fatal(err)
	}
	big, err := mutate.AppendLayers(f.image("z", 1), layer)
	if err != nil {
		t.Fatal(err)
	}
	f.push("bad:1", big)
	for name, c := range map[string]struct {
		ref  string
		want error
		text string
	}{
		"no such image":   {"example.test/none:1", errdefs.ErrNotFound, "example.test/none:1"},
		"no such tag":     {"example.test/bad:2", errdefs.ErrNotFound, ""},
		"digest mismatch": {"example.test/bad:1", nil, "digest"},
		"nobody listens":  {"127.0.0.1:1/app:1", ErrRegistryUnavailable, ""},
		"not a reference": {"UPPER CASE", errdefs.ErrInvalidArgument, "reference"},
	} {
		_, err := f.s.Pull(t.Context(), c.ref, Auth{})
		if err == nil || (c.want != nil && !errors.Is(err, c.want)) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if len(f.s.Images()) != 0 {
		t.Error("an image is listed")
	}
	f.waitFor("nothing to be left", func() bool {
		left, _ := filepath.Glob(filepath.Join(f.dir, "content/ingest/*"))
		blobs, _ := filepath.Glob(filepath.Join(f.dir, "content/blobs/sha256/*"))
		return len(left)+len(blobs)+f.layerCount() == 0
	})
}

// basicAuth asks for a user and a password, and counts who gave others.
func basicAuth(wrong *atomic.Int32) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, ok := r.BasicAuth()
			if user == "u" && password == "p" || r.Header.Get("Authorization") == "Bearer tok" {
				next.ServeHTTP(w, r)
				return
			}
			if ok {
				wrong.Add(1)
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
	}
}

func TestCredentials(t *testing.T) {
	var wrong atomic.Int32
	f := newFixture(t, basicAuth(&wrong))
	f.push("app:1", f.image("a", 1), remote.WithAuth(&authn.Basic{Username: "u", Password: "p"}))
	here := f.reg.Addr
	for name, c := range map[string]struct {
		auth Auth
		ok   bool
	}{
		"user":           {Auth{Username: "u", Password: "p"}, true},
		"basic":          {Auth{Basic: "dTpw"}, true},
		"token":          {Auth{RegistryToken: "tok"}, true},
		"right server":   {Auth{Username: "u", Password: "p", Server: "http://" + here + "/v2/"}, true},
		"none":           {Auth{}, false},
		"wrong password": {Auth{Username: "u", Password: "secret-x"}, false},
		"other server":   {Auth{Username: "u", Password: "p", Server: "elsewhere.test"}, false},
		"bad basic":      {Auth{Basic: "!"}, false},
	} {
		if err := f.s.Remove(t.Context(), here+"/app:1"); err != nil {
			t.Fatal(err)
		}
		_, err := f.s.Pull(t.Context(), here+"/app:1", c.auth)
		if (err == nil) != c.ok || (err != nil && strings.Contains(err.Error(), "secret-x")) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "wrong password" && !errors.Is(err, errdefs.ErrPermissionDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	before := wrong.Load()
	// example.test is a name of the same server: the credentials of another registry must not go there.
	if _, err := f.s.Pull(t.Context(), "example.test/app:1", Auth{Username: "u2", Password: "p2"}); err == nil {
		t.Error("a mirror got in")
	}
	if wrong.Load() != before {
		t.Error("a mirror was shown the credentials of the registry")
	}
}

// slow answers blobs a byte at a time until it is released.
func slow(release chan struct{}, count *atomic.Int32) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				count.Add(1)
				select {
				case <-release:
				case <-r.Context().Done():
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestParallelPullsShareAndCancel(t *testing.T) {
	var count atomic.Int32
	release := make(chan struct{})
	f := newFixture(t, slow(release, &count))
	f.push("app:1", f.image("a", 1))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.s.Pull(ctx, "example.test/app:1", Auth{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	count.Store(0)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := f.s.Pull(t.Context(), "example.test/app:1", Auth{}); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	close(release)
	wg.Wait()
	if n := count.Load(); n > 2 {
		t.Errorf("%d blob downloads for a configuration and a layer", n)
	}
}

func TestNoProgressEnds(t *testing.T) {
	var count atomic.Int32
	release := make(chan struct{})
	f := newFixture(t, slow(release, &count))
	f.s.cfg.ProgressTimeout = 200 * time.Millisecond
	f.push("app:1", f.image("a", 1))
	_, err := f.s.Pull(t.Context(), "example.test/app:1", Auth{})
	if !errors.Is(err, ErrRegistryUnavailable) || !strings.Contains(err.Error(), "no progress") {
		t.Errorf("got %v", err)
	}
	close(release)
}

func TestBrokenImageIsDroppedAndPulledAnew(t *testing.T) {
	f := newFixture(t, nil)
	f.push("app:1", f.image("a", 2))
	f.pull("example.test/app:1")
	if err := os.RemoveAll(filepath.Dir(f.s.Images()[0].Layers[0])); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	if n := len(f.s.Images()); n != 0 {
		t.Errorf("%d images", n)
	}
	f.s.Collect()
	f.waitFor("the rest to go", func() bool { return f.layerCount() == 0 })
	f.pull("example.test/app:1")
	if _, err := os.Stat(filepath.Join(f.s.Images()[0].Layers[0], "dir/0")); err != nil {
		t.Error(err)
	}
}

// TestFullDiskLosesNoImage: what cannot be looked at now is not what is gone. A kubelet removes images when the disk is
// full, and containers run on others.
func TestFullDiskLosesNoImage(t *testing.T) {
	f := newFixture(t, nil)
	f.push("app:1", f.image("a", 2))
	f.push("old:1", f.image("b", 2))
	if err := f.s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", f.dir, "tmpfs", 0, "nr_inodes=400"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(f.dir, unix.MNT_DETACH) })
	f.open()
	id := f.pull("example.test/app:1")
	f.pull("example.test/old:1")
	held, err := f.s.Acquire(id, "c1")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; err == nil; i++ { // no room for another directory
		err = os.WriteFile(filepath.Join(f.dir, fmt.Sprintf("filler-%d", i)), nil, 0o600)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	look := func(when string) {
		t.Helper()
		if _, err := f.s.Image(id); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		f.s.Collect()
		time.Sleep(200 * time.Millisecond)
		for _, dir := range held.Layers {
			if _, err := os.Stat(dir); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	f.reopen()
	if _, err := f.s.Acquire(id, "c1"); err != nil {
		t.Fatal(err)
	}
	look("after a start")
	if err := f.s.Remove(t.Context(), "example.test/old:1"); err != nil {
		t.Error(err)
	}
	look("after another was removed")
	if _, err := f.s.Image("example.test/old:1"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("the other one: %v", err)
	}
	fillers, _ := filepath.Glob(filepath.Join(f.dir, "filler-*"))
	for _, filler := range fillers {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	f.reopen()
	if _, err := f.s.Acquire(id, "c1"); err != nil {
		t.Fatal(err)
	}
	look("after a start with room")
}

func TestUsage(t *testing.T) {
	f := newFixture(t, nil)
	before := f.s.Usage()
	f.push("app:1", f.image("a", 2))
	f.pull("example.test/app:1")
	f.waitFor("a larger usage", func() bool { return f.s.Usage().Bytes > before.Bytes && f.s.Usage().Inodes > before.Inodes })
	if f.s.Usage().Dir != f.dir {
		t.Errorf("dir %s", f.s.Usage().Dir)
	}
}
