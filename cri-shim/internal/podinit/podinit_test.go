package podinit

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

func TestIsELF(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		b, err := Binary(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine || f.Entry != base+codeOffset || len(b) > 512 {
			t.Errorf("%s: %+v, %d bytes", arch, f.FileHeader, len(b))
		}
	}
	if _, err := Binary("vax"); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("vax: %v", err)
	}
}

// TestReapsOrphans runs the program as process 1 of a PID namespace, lets a shell in it leave an orphan behind
// that ends, and looks for a zombie.
func TestReapsOrphans(t *testing.T) {
	nettest.RequireRoot(t)
	b, err := Binary(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pid := cmd.Process.Pid

	enter := exec.Command("nsenter", "-p", "-t", strconv.Itoa(pid), "sh", "-c", "sh -c 'sleep 0.05 & :'; sleep 0.3")
	if out, err := enter.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	children, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/children")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(children)) != "" {
		t.Errorf("it has children: %s", children)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // has no handler: process 1 must not die of it
	time.Sleep(20 * time.Millisecond)
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil || strings.Contains(string(stat), ") Z ") {
		t.Errorf("it ended: %s, %v", stat, err)
	}
}
