package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine is a virtual machine that boots, runs one command as root and ends.
type machine struct {
	image      string // directory that tools/vmimage.sh has filled
	stage      string // file system that is mounted at /podwright; it stays as it is
	persistent string // file system that is mounted at /persistent and keeps what is written; "": none
	dir        string // for the machine's own files; console is what the kernel said
	limit      time.Duration
	cpus       int
	memory     int // MiB
	output     io.Writer
	cut        *powerCut // nil: the command runs to its end
}

// errCut is a machine that ended before its command did: at its deadline, by a panic, or because it was interrupted.
var errCut = errors.New("the virtual machine ended before its command")

// errPowerCut is the end of a machine with a power cut.
var errPowerCut = errors.New("power cut")

// kernelArgs make a host as Kubernetes nodes are today. The mitigations guard against other guests; here they cost time.
// Expedited RCU does not wait for idle processors, which most of what makes and removes namespaces does.
const kernelArgs = "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off rcupdate.rcu_expedited=1 apparmor=1 security=apparmor " +
	"systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all hugepages=16 net.ifnames=0 systemd.show_status=false"

// run boots the machine and returns the exit code of its command. What the command left in $RESULTS is in
// dir/results.tar then. The machine is gone when it returns.
func (m *machine) run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	ctx, blow := context.WithCancelCause(ctx)
	defer blow(nil)
	output := m.output
	if m.cut != nil {
		output = &fuse{Writer: output, after: m.cut.after, blow: func() { blow(errPowerCut) }}
	}
	for _, name := range []string{"console", "status", "results.tar"} {
		if err := os.Remove(filepath.Join(m.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.args()...)
	// At the end of its input qemu unplugs the port, upon which writers in the machine hang.
	in, input, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer func() { _, _ = in.Close(), input.Close() }()
	cmd.Stdin = in
	cmd.Stdout, cmd.Stderr = output, os.Stderr
	// Ctrl-C ends the machine by the context; the kernel ends it with the thread that has started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	if ctx.Err() != nil {
		return 0, fmt.Errorf("%w: %w", errCut, context.Cause(ctx))
	}
	if err != nil {
		return 0, fmt.Errorf("run qemu: %w", err)
	}
	status, err := os.ReadFile(filepath.Join(m.dir, "status"))
	if err != nil {
		return 0, err
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(status)))
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(m.dir, "console"))
		return 0, fmt.Errorf("%w; its console says:\n%s", errCut, console[max(0, len(console)-4096):])
	}
	return code, nil
}

func (m *machine) args() []string {
	args := []string{
		"-nodefaults", "-no-reboot", "-display", "none", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-smp", strconv.Itoa(m.cpus), "-m", strconv.Itoa(m.memory),
		"-kernel", m.image + "/vmlinuz", "-initrd", m.image + "/initrd", "-append", kernelArgs,
		"-drive", "if=virtio,format=raw,snapshot=on,cache=unsafe,file=" + m.image + "/root.ext4",
		"-drive", "if=virtio,format=raw,snapshot=on,cache=unsafe,file=" + m.stage,
		// No packet leaves: restrict cuts the network off, but a node has an address and a default route.
		"-nic", "user,restrict=on,ipv6=off,model=virtio-net-pci",
		"-serial", "file:" + filepath.Join(m.dir, "console"),
		"-device", "virtio-serial-pci", "-device", "virtio-rng-pci",
		"-chardev", "stdio,id=out,signal=off", "-device", "virtserialport,chardev=out,name=out",
	}
	for name, file := range map[string]string{"status": "status", "results": "results.tar"} {
		args = append(args, "-chardev", "file,id="+name+",path="+filepath.Join(m.dir, file),
			"-device", "virtserialport,chardev="+name+",name="+name)
	}
	if m.persistent != "" {
		args = append(args, "-drive", "if=virtio,format=raw,cache=writeback,file="+m.persistent)
	}
	return args
}
