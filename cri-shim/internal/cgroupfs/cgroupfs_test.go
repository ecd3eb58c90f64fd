package cgroupfs

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestPath(t *testing.T) {
	for oci, want := range map[string]string{
		"/kubepods/pod1/abc":                   "/kubepods/pod1/abc",
		"kubepods/../x/abc":                    "/x/abc",
		"kubepods-pod1.slice:cri-shim:abc":     "/kubepods.slice/kubepods-pod1.slice/cri-shim-abc.scope",
		"a-b-c.slice:cri-shim:abc":             "/a.slice/a-b.slice/a-b-c.slice/cri-shim-abc.scope",
		"-.slice:cri-shim:abc":                 "/cri-shim-abc.scope",
		"/path/with:one/colon":                 "/path/with:one/colon",
		"/cri-shim/0123456789abcdef0123456789": "/cri-shim/0123456789abcdef0123456789",
	} {
		if got, err := Path(oci); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", oci, got, err, want)
		}
	}
	for _, oci := range []string{"", "/", "..", "/a/.."} {
		if got, err := Path(oci); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %q, %v", oci, got, err)
		}
	}
}

func TestDir(t *testing.T) {
	v1 := Mounts{V1: map[string]string{"memory": "/sys/fs/cgroup/memory"}}
	v2 := Mounts{Unified: "/sys/fs/cgroup"}
	for _, c := range []struct {
		m                Mounts
		controller, want string
	}{
		{v1, "memory", "/sys/fs/cgroup/memory/a"}, {v1, "pids", ""}, {v2, "memory", "/sys/fs/cgroup/a"}, {v2, "pids", "/sys/fs/cgroup/a"},
	} {
		if got := c.m.Dir(c.controller, "/a"); got != c.want {
			t.Errorf("%s: got %q, want %q", c.controller, got, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	m, err := Find()
	if err != nil || m.Unified == "" && m.V1["memory"] == "" {
		t.Errorf("no cgroups on this host: %+v, %v", m, err)
	}
}
