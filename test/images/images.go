// Package images builds the images that tests and the demo run, from the host's static busybox, and serves them
// from a registry in this process, on loopback. It never reaches for a public registry.
package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// File is one entry of a layer.
type File struct {
	Path string // relative, with / at the end for a directory
	Mode fs.FileMode
	Data []byte
	Link string // hard link to this path
	Sym  string // symbolic link to this path
}

// Layer builds a gzip layer.
func Layer(files ...File) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Path, Mode: int64(f.Mode.Perm()), Size: int64(len(f.Data)), Typeflag: tar.TypeReg, ModTime: time.Unix(1, 0)}
		if f.Mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		if f.Mode&fs.ModeSetuid != 0 {
			h.Mode |= 0o4000
		}
		switch {
		case strings.HasSuffix(f.Path, "/"):
			h.Typeflag = tar.TypeDir
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeLink, f.Link
		case f.Sym != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Sym
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}

// Busybox is a small userland: every applet of the host's static busybox as a hard link in /bin. Its command
// is sh.
func Busybox() (v1.Image, error) {
	const path = "/bin/busybox"
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("the package busybox-static is needed: %w", err)
	}
	files, err := userland(path)
	if err != nil {
		return nil, err
	}
	return shell(files)
}

// userland returns the directories, the accounts and, as hard links in /bin, every applet of a busybox.
func userland(busybox string) ([]File, error) {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", busybox, err)
	}
	files := []File{{Path: "bin/busybox", Mode: 0o755, Data: binary}}
	for _, dir := range []string{"bin/", "dev/", "etc/", "proc/", "root/", "sys/", "var/", "var/lib/"} {
		files = append([]File{{Path: dir, Mode: 0o755}}, files...)
	}
	files = append(files, File{Path: "tmp/", Mode: 0o777 | fs.ModeSticky},
		File{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		File{Path: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnobody:x:65534:\n")})
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			files = append(files, File{Path: "bin/" + applet, Mode: 0o755, Link: "bin/busybox"})
		}
	}
	return files, nil
}

// shell is an image of one layer that runs sh.
func shell(files []File) (v1.Image, error) {
	img, err := With(empty.Image, files...)
	if err != nil {
		return nil, err
	}
	return Configure(img, func(c *v1.Config) { c.Cmd = []string{"sh"}; c.Env = []string{"PATH=/bin"} })
}

// With puts a layer on top of an image.
func With(img v1.Image, files ...File) (v1.Image, error) {
	layer, err := Layer(files...)
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layer)
}

// Configure returns img for this architecture with a changed configuration.
func Configure(img v1.Image, change func(*v1.Config)) (v1.Image, error) {
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", arch
	change(&cf.Config)
	return mutate.ConfigFile(img, cf)
}

// Save writes an image into a file as docker save does.
func Save(path, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, img)
}

// Registry is an image registry on loopback.
type Registry struct {
	Addr   string // host:port
	srv    *http.Server
	served chan error
}

// Serve starts a registry on addr ("127.0.0.1:0" chooses a port). wrap, when not nil, stands between the clients
// and the registry.
func Serve(addr string, wrap func(http.Handler) http.Handler) (*Registry, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	r := &Registry{Addr: l.Addr().String(), srv: &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}, served: make(chan error, 1)}
	go func() { r.served <- r.srv.Serve(l) }()
	return r, nil
}

// Close ends the registry.
func (r *Registry) Close() error {
	err := r.srv.Close()
	if served := <-r.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Push puts an image in under "repository:tag" and returns its digest. The options are those of a client.
func (r *Registry) Push(ref string, img v1.Image, opts ...remote.Option) (v1.Hash, error) {
	tag, err := name.ParseReference(r.Addr+"/"+ref, name.Insecure)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := remote.Write(tag, img, opts...); err != nil {
		return v1.Hash{}, fmt.Errorf("push %s: %w", ref, err)
	}
	return img.Digest()
}

// WriteHosts makes dir a tree of hosts.toml in which each of hosts is served by this registry alone.
func (r *Registry) WriteHosts(dir string, hosts ...string) error {
	for _, host := range hosts {
		content := fmt.Sprintf("server = \"http://%s\"\n\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", r.Addr, r.Addr)
		path := filepath.Join(dir, host, "hosts.toml")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
