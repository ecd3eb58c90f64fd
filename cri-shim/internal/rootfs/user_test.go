package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func userRoot(t *testing.T) *root {
	t.Helper()
	dir := t.TempDir()
	err := errors.Join(os.Mkdir(filepath.Join(dir, "etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:\n0x0:x:0:0::/:\n+0:x:0:0::/:\n-1:x:0:0::/:\n99999999999:x:0:0::/:\nnul:x:7:7::/a\x00b:\nfar:x:4294967296:0::/:\nbelow:x:-1:0::/:\nfargroup:x:8:4294967296::/:\nbelowgroup:x:9:-1::/:\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nextra:x:2000:app,other\nhuge:x:4294967296:app\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	r, err := openRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// TestImageUser: one text is one user, at every start, and what is no user is refused and never root
// (CVE-2024-40635, CVE-2026-46680, the class of CVE-2019-11245).
func TestImageUser(t *testing.T) {
	r := userRoot(t)
	for text, want := range map[string]struct {
		uid, gid uint32
		groups   []uint32
	}{
		"": {}, "0": {}, "000": {}, "root": {}, "app": {1000, 1001, []uint32{2000}}, "1000": {1000, 1001, []uint32{2000}},
		"1000:5": {1000, 5, []uint32{2000}}, "app:extra": {1000, 2000, []uint32{2000}}, "1234": {uid: 1234}, "010": {uid: 10}, "2147483647": {uid: 2147483647},
	} {
		got, err := r.user(pod.Security{}, text)
		if err != nil || got.UID != want.uid || got.GID != want.gid || !slices.Equal(got.Groups, want.groups) {
			t.Errorf("USER %q: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"+0", "-1", " 0", "4294967296", "2147483648", "99999999999", "0:-1", "0:4294967296", "app:huge", "nobody-here", "app:nobody-here", "far", "below", "fargroup", "belowgroup"} {
		if got, err := r.user(pod.Security{}, text); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("USER %q: got %+v, %v", text, got, err)
		}
	}
}

// TestHomeHoldsNoNUL: the home of an account becomes a variable, which one with a NUL cannot.
func TestHomeHoldsNoNUL(t *testing.T) {
	r := userRoot(t)
	for user, want := range map[string]string{"app": "/home/app", "nul": ""} {
		if got, err := r.user(pod.Security{}, user); err != nil || got.Home != want {
			t.Errorf("%s: %q, %v", user, got.Home, err)
		}
	}
}

func TestGroupsPolicy(t *testing.T) {
	r := userRoot(t)
	uid := int64(1000)
	s := pod.Security{RunAsUser: &uid, SupplementalGroups: []int64{7, 7}}
	if got, err := r.user(s, "root"); err != nil || !slices.Equal(got.Groups, []uint32{2000, 7}) {
		t.Errorf("merge: %+v, %v", got, err)
	}
	s.StrictGroups = true
	if got, err := r.user(s, "root"); err != nil || !slices.Equal(got.Groups, []uint32{7}) || got.GID != 1001 {
		t.Errorf("strict: %+v, %v", got, err)
	}
}

// TestOpenWhileOthersRename: a ".." on the way makes the kernel give up when anything is renamed or mounted meanwhile,
// anywhere (openat2(2), EAGAIN).
func TestOpenWhileOthersRename(t *testing.T) {
	r := userRoot(t)
	dir := r.dir.Name()
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755), os.Symlink("../../../"+strings.Repeat("a/../", 30)+"etc/passwd", filepath.Join(dir, "a/b/c/link")))
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_ = os.Rename(filepath.Join(other, strconv.Itoa(i)), filepath.Join(other, strconv.Itoa(i+1)))
			}
		}
	})
	defer work.Wait()
	defer close(stop)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		f, err := r.open("a/b/c/link", unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
}
