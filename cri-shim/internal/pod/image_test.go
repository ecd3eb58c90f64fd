package pod

import "testing"

func TestDigested(t *testing.T) {
	const (
		id  = "sha256:5555555555555555555555555555555555555555555555555555555555555555"
		hub = "docker.io/library/busybox@sha256:aaaa"
		own = "registry.example/busybox@sha256:bbbb"
	)
	both := []string{hub, own}
	for _, c := range []struct {
		name            string
		digests         []string
		user, ref, want string
	}{
		{"by tag", both, "", "registry.example/busybox:1", own},
		{"by id, as a kubelet does", both, "registry.example/busybox:1", id, own},
		{"by id without 'sha256:'", both, "", id[len("sha256:"):], hub},
		{"short name", both, "", "busybox", hub},
		{"by digest", both, "", "registry.example/busybox@sha256:" + id[len("sha256:"):], own},
		{"another repository", []string{hub}, "", "registry.example/busybox", hub},
		{"never pulled", nil, "", "busybox", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Image{ID: id, Digests: c.digests}.digested(ContainerConfig{UserSpecifiedImage: c.user, Image: c.ref})
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
