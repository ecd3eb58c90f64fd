package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/podns"
)

// mappedSandbox has a user namespace whose root is the host's 200000.
func mappedSandbox(t *testing.T, h *host, id pod.ID) pod.Sandbox {
	t.Helper()
	if err := podns.SupportsIDMap(h.layer); err != nil {
		t.Skipf("this host maps no ids: %v", err)
	}
	s := sandbox(id)
	ids := pod.IDMapping{HostID: 200000, Length: 65536}
	s.Config.Namespaces.User = &pod.UserNamespace{UID: ids, GID: ids}
	h.sandbox(s)
	return s
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

// TestMappedFilesBelongToThePod looks at the root file system from the host: what is root's in the image is the
// pod's root's, and nothing is changed on disk.
func TestMappedFilesBelongToThePod(t *testing.T) {
	h := newHost(t)
	s := mappedSandbox(t, h, "s6")
	if err := os.Chown(filepath.Join(h.layer, "data/seed"), 1000, 1001); err != nil {
		t.Fatal(err)
	}
	c := container("c6", "true")
	img := h.image(func(i *imagespec.ImageConfig) { i.Volumes = map[string]struct{}{"/data": {}, "/new": {}} })
	img.Layers = append(img.Layers, t.TempDir())
	if _, _, err := h.m.Prepare(t.Context(), s, c, pod.ContainerImages{Root: img}); err != nil {
		t.Fatal(err)
	}
	root, volumes, shared := h.layout.Rootfs("c6"), h.m.volumeDir("s6", "c6"), h.layout.Shared("s6")
	if err := os.Chmod(filepath.Join(root, "bin/busybox"), 0o700); err != nil { // copied up
		t.Fatal(err)
	}
	for path, want := range map[string][2]uint32{
		root: {200000, 200000}, root + "/bin/busybox": {200000, 200000}, root + "/data/seed": {201000, 201001},
		volumes + "/0/seed": {201000, 201001}, volumes + "/1": {200000, 200000},
		shared + "/hosts": {200000, 200000}, h.layer + "/bin/busybox": {0, 0}, h.layer + "/data/seed": {1000, 1001},
	} {
		if uid, gid := owner(t, path); uid != want[0] || gid != want[1] {
			t.Errorf("%s is of %d:%d, want %v", path, uid, gid, want)
		}
	}
	if err := h.m.Remove(t.Context(), s.ID, c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(h.layout.Bundle("c6")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the bundle is left")
	}
}

// TestMappedUsersOnly: an id that the pod does not have cannot be run as.
func TestMappedUsersOnly(t *testing.T) {
	h := newHost(t)
	s := mappedSandbox(t, h, "s7")
	beyond := int64(65536)
	for name, change := range map[string]func(*pod.Security){
		"user":  func(s *pod.Security) { s.RunAsUser = &beyond },
		"group": func(s *pod.Security) { s.RunAsUser, s.RunAsGroup = new(int64), &beyond },
		"other": func(s *pod.Security) { s.SupplementalGroups = []int64{beyond} },
	} {
		c := container("c7", "true")
		change(&c.Config.Security)
		if _, _, err := h.m.Prepare(t.Context(), s, c, pod.ContainerImages{Root: h.image(nil)}); err == nil {
			t.Errorf("%s 65536 is accepted", name)
		}
	}
}
