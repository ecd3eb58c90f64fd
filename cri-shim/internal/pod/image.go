package pod

import (
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// digested is the name by which just this image can be pulled anew: that of the repository which the container's author
// named, else the first. A digest says nothing about another repository. It is empty when the image was never pulled by name.
func (i Image) digested(cfg ContainerConfig) string {
	for _, name := range []string{cfg.UserSpecifiedImage, cfg.Image} {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue // an id
		}
		repository := named.Name() + "@"
		if at := slices.IndexFunc(i.Digests, func(d string) bool { return strings.HasPrefix(d, repository) }); at >= 0 {
			return i.Digests[at]
		}
	}
	if len(i.Digests) > 0 {
		return i.Digests[0]
	}
	return ""
}
