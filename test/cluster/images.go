package cluster

import (
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/podwright/podwright/test/images"
)

// pushImages fills the registry: a busybox, and on top of it what is built by the Kubernetes project for tests, a server of names,
// and a pause for runtimes that need one.
func (c *Cluster) pushImages() error {
	busybox, err := images.Busybox()
	if err != nil {
		return err
	}
	agnhost, err := withProgram(busybox, filepath.Join(c.programs.Kubernetes, "agnhost"))
	if err != nil {
		return err
	}
	names, err := withProgram(busybox, c.programs.Names)
	if err != nil {
		return err
	}
	pause, err := images.Configure(busybox, func(c *v1.Config) { c.Cmd = []string{"sleep", "2147483647"} })
	if err != nil {
		return err
	}
	for ref, img := range map[string]v1.Image{"busybox:latest": busybox, "agnhost:latest": agnhost, "names:latest": names, "pause:latest": pause} {
		if _, err := c.registry.Push(ref, img); err != nil {
			return err
		}
	}
	return nil
}

// withProgram is an image with one more program in /bin, which is what it runs.
func withProgram(img v1.Image, path string) (v1.Image, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	img, err = images.With(img, images.File{Path: "bin/" + filepath.Base(path), Mode: 0o755, Data: data})
	if err != nil {
		return nil, err
	}
	return images.Configure(img, func(c *v1.Config) { c.Entrypoint, c.Cmd = []string{"/bin/" + filepath.Base(path)}, nil })
}
