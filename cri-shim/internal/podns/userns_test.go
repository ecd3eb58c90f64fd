package podns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/thread"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st.Ino
}

// ownerOf returns the inode of the user namespace that owns a namespace (ioctl_nsfs(2)).
func ownerOf(t *testing.T, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return inode(t, fmt.Sprintf("/proc/self/fd/%d", fd))
}

func TestUserNamespace(t *testing.T) {
	nettest.RequireRoot(t)
	p := New(paths.Layout{Root: t.TempDir(), State: t.TempDir()})
	if err := SupportsIDMap(t.TempDir()); err != nil {
		t.Skipf("this host maps no ids: %v", err)
	}
	ids := pod.IDMapping{HostID: 300000, Length: 1000}
	s := pod.Sandbox{ID: "s", Config: pod.SandboxConfig{
		Hostname: "mapped", Sysctls: map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"},
		Namespaces: pod.Namespaces{Network: pod.ModePod, PID: pod.ModeContainer, IPC: pod.ModePod, User: &pod.UserNamespace{UID: ids, GID: ids}},
	}}
	if err := p.Pin(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := p.Pin(t.Context(), s); err != nil {
		t.Errorf("again: %v", err)
	}
	dir := p.layout.Namespaces("s")
	mine := inode(t, filepath.Join(dir, "user"))
	for _, kind := range []string{"net", "ipc", "uts"} {
		if got := ownerOf(t, filepath.Join(dir, kind)); got != mine {
			t.Errorf("%s is owned by user namespace %d, not by the pod's, %d", kind, got, mine)
		}
	}
	checkFittedOut(t, dir)
	if err := p.Unpin("s"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Error("the directory is left")
	}
}

// checkFittedOut looks at host name, sysctls and lo from inside.
func checkFittedOut(t *testing.T, dir string) {
	t.Helper()
	err := thread.Scratch(func() error {
		for name, flag := range map[string]int{"net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS} {
			if err := join(filepath.Join(dir, name), flag); err != nil {
				return err
			}
		}
		var uts unix.Utsname
		if err := unix.Uname(&uts); err != nil {
			return err
		}
		if got := unix.ByteSliceToString(uts.Nodename[:]); got != "mapped" {
			t.Errorf("host name %q", got)
		}
		for path, want := range map[string]string{
			"/proc/sys/kernel/shm_rmid_forced": "1", "/proc/sys/net/ipv4/ip_forward": "1", "/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
		} {
			got, err := os.ReadFile(path)
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s is %q, %v", path, got, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if v, _ := os.ReadFile("/proc/sys/kernel/shm_rmid_forced"); strings.TrimSpace(string(v)) != "0" {
		t.Errorf("the sysctl changed the host: %s", v)
	}
}
