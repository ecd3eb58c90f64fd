package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
)

// CRIHosts are the registries that critest and its benchmarks name. All their images come from one mirror.
var CRIHosts = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws"}

// PinnedImage is the one image that critest names by a digest. Ours cannot have that digest.
const PinnedImage = "k8s-staging-cri-tools/test-image-digest"

// PinnedDigest is what critest v1.36.0 expects of PinnedImage.
const PinnedDigest = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"

// CRIParts are the programs that the images of critest are made of.
type CRIParts struct {
	// Busybox is the one of Debian's package busybox. That of busybox-static will not do: its shell runs applets
	// without looking at the file system, and so does not notice that one is masked.
	Busybox string
	Applets string // test/images/applets
}

// Named is an image and its name below a registry's host.
type Named struct {
	Ref   string
	Image v1.Image
}

// CRISet builds every image that critest v1.36.0 pulls, under its original names.
func CRISet(p CRIParts) ([]Named, error) {
	b := &criBuilder{}
	if err := b.base(p); err != nil {
		return nil, err
	}
	b.servers()
	b.small()
	b.users()
	for i, libc := range []string{"1", "1-glibc", "1-musl", "1-uclibc", "1.35.0-glibc"} { // of the benchmarks
		b.add("docker/library/busybox:"+libc, b.labelled(fmt.Sprintf("benchmark %d", i)))
	}
	return b.set, errors.Join(b.faults...)
}

// criBuilder collects images; a fault spoils the set, not the building.
type criBuilder struct {
	shell  v1.Image
	applet []byte
	set    []Named
	faults []error
}

func (b *criBuilder) add(ref string, img v1.Image) { b.set = append(b.set, Named{ref, img}) }

func (b *criBuilder) must(img v1.Image, err error) v1.Image {
	if err != nil {
		b.faults = append(b.faults, err)
		return empty.Image
	}
	return img
}

// base builds the userland that all but pause are made of.
func (b *criBuilder) base(p CRIParts) (err error) {
	if b.applet, err = os.ReadFile(p.Applets); err != nil {
		return err
	}
	files, err := userland(p.Busybox)
	if err != nil {
		return err
	}
	libraries, err := libraries(p.Busybox)
	if err != nil {
		return err
	}
	files = append(files, libraries...)
	files = append(files,
		File{Path: "etc/passwd", Mode: 0o644, Data: []byte(passwd)}, File{Path: "etc/group", Mode: 0o644, Data: []byte(group)},
		File{Path: "var/run/", Mode: 0o755}, File{Path: "usr/sbin/", Mode: 0o755},
		// In bin, where no applet of busybox has these names.
		File{Path: "bin/pgrep", Mode: 0o755, Data: b.applet}, File{Path: "bin/ipcs", Mode: 0o755, Link: "bin/pgrep"},
	)
	b.shell, err = shell(files)
	return err
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"
	group  = "root:x:0:\nwww-data:x:33:\nnobody:x:65534:\n"
)

func (b *criBuilder) configured(img v1.Image, change func(*v1.Config)) v1.Image {
	return b.must(Configure(img, change))
}

// labelled is the userland under another id.
func (b *criBuilder) labelled(text string) v1.Image {
	return b.configured(b.shell, func(c *v1.Config) { c.Labels = map[string]string{"io.podwright.test": text} })
}

func (b *criBuilder) servers() {
	const e2e, staging = "e2e-test-images/", "k8s-staging-cri-tools/"
	b.add(e2e+"busybox:1.29-2", b.shell)
	server := func(name string, env ...string) v1.Image {
		img := b.must(With(b.shell, File{Path: "usr/sbin/" + name, Mode: 0o755, Data: b.applet}))
		return b.configured(img, func(c *v1.Config) {
			c.Cmd, c.Env = []string{"/usr/sbin/" + name}, append(c.Env, env...)
		})
	}
	b.add(e2e+"nginx:1.14-2", server("nginx"))
	b.add(e2e+"httpd:2.4.39-4", server("httpd"))
	b.add(staging+"hostnet-nginx-"+arch+":latest", server("nginx", "NGINX_PORT=12003"))

	nnp := b.must(With(b.shell, File{Path: "usr/local/bin/", Mode: 0o755}, File{Path: "usr/local/bin/nnp", Mode: 0o755 | fs.ModeSetuid, Data: b.applet}))
	b.add(e2e+"nonewprivs:1.3", b.configured(nnp, func(c *v1.Config) { c.Cmd = []string{"/usr/local/bin/nnp"} }))

	pause := b.must(With(empty.Image, File{Path: "pause", Mode: 0o755, Data: b.applet}))
	b.add("pause:3.9", b.configured(pause, func(c *v1.Config) { c.Entrypoint, c.User = []string{"/pause"}, "65535:65535" }))
}

// small are the images that are only pulled, listed and removed: how many there are and which are the same is
// what the tests look at.
func (b *criBuilder) small() {
	const staging = "k8s-staging-cri-tools/"
	for _, name := range []string{"latest:latest", "tag:test", "tag:all", "1:latest", "2:latest", "3:latest"} {
		b.add(staging+"test-image-"+name, b.labelled(name))
	}
	tags := b.labelled("tags")
	for _, tag := range []string{"1", "2", "3"} {
		b.add(staging+"test-image-tags:"+tag, tags)
	}
	b.add(PinnedImage+":latest", b.labelled("digest"))
}

func (b *criBuilder) users() {
	const staging = "k8s-staging-cri-tools/test-image-"
	for name, user := range map[string]string{
		"user-uid": "1002", "user-username": "www-data", "user-uid-group": "1003:1004", "user-username-group": "www-data:1004",
	} {
		b.add(staging+name+":latest", b.configured(b.labelled(name), func(c *v1.Config) { c.User = user }))
	}
	predefined := b.must(With(b.shell,
		File{Path: "etc/passwd", Mode: 0o644, Data: []byte(passwd + "default-user:x:1000:1000::/home/default-user:/bin/sh\n")},
		File{Path: "etc/group", Mode: 0o644, Data: []byte(group + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")}))
	b.add(staging+"predefined-group:latest", b.configured(predefined, func(c *v1.Config) { c.User = "1000" }))
}

// PushCRISet puts the images of critest into a registry and returns the digest of PinnedImage, in hex.
func PushCRISet(r *Registry, p CRIParts) (digest string, err error) {
	set, err := CRISet(p)
	if err != nil {
		return "", err
	}
	for _, n := range set {
		hash, err := r.Push(n.Ref, n.Image)
		if err != nil {
			return "", err
		}
		if n.Ref == PinnedImage+":latest" {
			digest = hash.Hex
		}
	}
	return digest, nil
}

// libraries returns what the dynamic linker would load for a program, under the same paths.
func libraries(program string) ([]File, error) {
	paths, err := linked(program)
	if err != nil {
		return nil, err
	}
	var files []File
	seen := map[string]bool{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		dir := filepath.Dir(path)[1:] + "/"
		if !seen[dir] {
			files, seen[dir] = append(files, File{Path: dir, Mode: 0o755}), true
		}
		files = append(files, File{Path: path[1:], Mode: 0o755, Data: data})
	}
	return files, nil
}
