package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// confined is the security context that a kubelet sends for a pod of the restricted standard.
const confined = `"linux": {"security_context": {
 "run_as_user": {"value": 1000}, "run_as_group": {"value": 1001}, "supplemental_groups": [1002], "no_new_privs": true, "readonly_rootfs": true,
 "capabilities": {"drop_capabilities": ["ALL"]}, "seccomp": {"profile_type": 0},
 "namespace_options": {"pid": 1},
 "masked_paths": ["/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
  "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap", "/no/such/path"],
 "readonly_paths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]}}`

// facts prints what the confinement is, one line each.
const facts = `
echo caps $(grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f2 | sort -u)
echo nnp $(grep NoNewPrivs /proc/self/status | cut -f2) seccomp $(grep Seccomp: /proc/self/status | cut -f2)
echo id $(id -u) $(id -g) $(id -G)
echo fds $(ls /proc/self/fd)
echo kcore $(head -c 9 /proc/kcore | wc -c) keys $(cat /proc/keys | wc -c) timers $(cat /proc/timer_list | wc -c) interrupts $(cat /proc/interrupts | wc -c) firmware $(ls /sys/firmware | wc -l)
for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/fs/cgroup/new /etc/new; do (echo x > $f) 2>/dev/null && echo WROTE $f; done
true
`

// TestConfined: what is asked holds for the container's process, and for every command that is run in it.
func TestConfined(t *testing.T) {
	n := newNode(t)
	p := n.pod("confined")
	id := n.run(p, "confined", "main", facts+"sleep 1000", confined)
	want := []string{
		"caps 0000000000000000", "nnp 1 seccomp 2", "id 1000 1001 1001 1002", "fds 0 1 2 3",
		"kcore 0 keys 0 timers 0 interrupts 0 firmware 0",
	}
	var log string
	n.eventually(func() bool { log = n.crictl("logs", id); return strings.Contains(log, "firmware") })
	for who, got := range map[string]string{"process": log, "command": n.exec(id, "sh", "-c", facts)} {
		for _, line := range want {
			if !strings.Contains(got, line+"\n") && !strings.HasSuffix(got, line) {
				t.Errorf("%s: no line %q in\n%s", who, line, got)
			}
		}
		if strings.Contains(got, "WROTE") {
			t.Errorf("%s: %s", who, got)
		}
	}
}

// TestRuntimeIsNotOverwritten: a container runs the OCI runtime by its own /proc/self/exe, and another process of its
// pod keeps the program open and writes to it when it is over: it gets no hold of the host's file (CVE-2019-5736).
func TestRuntimeIsNotOverwritten(t *testing.T) {
	n := prepareNode(t)
	original, err := exec.LookPath("runc")
	n.must(err)
	before, err := os.ReadFile(original)
	n.must(err)
	runc := n.Base + "/bin/runc" // if it is overwritten, then not the host's
	n.must(os.Mkdir(n.Base+"/bin", 0o755))
	n.must(os.WriteFile(runc, before, 0o755))
	n.UseRuntime(runc)
	n.must(n.Start())
	n.crictl("pull", image)
	file, err := n.File("pod-overwrite.json", n.PodJSON("overwrite", true))
	n.must(err)
	p := n.crictl("runp", file)
	attacker := n.run(p, "overwrite", "attacker", `while :; do for p in /proc/[0-9]*; do
 [ "$(tr '\0' ' ' <$p/cmdline)" = "/proc/self/exe --log /vol/fifo list " ] && exec 3<$p/exe && touch /held && while [ -e $p ]; do sleep 0.1; done && (echo hello >/proc/self/fd/3; touch /tried)
done; done 2>/dev/null`, `"linux": {"security_context": {"namespace_options": {"pid": 0}}}`)
	volume := t.TempDir()
	n.must(syscall.Mkfifo(volume+"/fifo", 0o666)) // which nobody reads: the program stays
	mounts := fmt.Sprintf(`{"container_path": "/vol", "host_path": %q}`, volume)
	for _, dir := range []string{"/lib", "/lib64", "/usr/lib"} { // which the program may need
		if _, err := os.Stat(dir); err == nil {
			mounts += fmt.Sprintf(`, {"container_path": %[1]q, "host_path": %[1]q, "readonly": true}`, dir)
		}
	}
	victim, err := n.CreateContainer(p, "overwrite", fmt.Sprintf(`{"metadata": {"name": "victim"}, "image": {"image": %q}, "command": ["/proc/self/exe", "--log", "/vol/fifo", "list"],
 "mounts": [%s], "linux": {"security_context": {"namespace_options": {"pid": 0}}}}`, image, mounts))
	n.must(err)
	n.crictl("start", victim)
	wrote := func(name string) func() bool {
		return func() bool {
			_, err := os.Stat(n.Root + "/pods/" + p + "/containers/" + attacker + "/upper/" + name)
			return err == nil
		}
	}
	n.eventually(wrote("held"))
	n.crictl("stop", "-t", "0", victim)
	n.eventually(wrote("tried"))
	after, err := os.ReadFile(runc)
	n.must(errors.Join(err, os.WriteFile(runc, before, 0o755))) // to end what runs
	if sha256.Sum256(before) != sha256.Sum256(after) {
		t.Error("the runtime's file has changed")
	}
}

// TestEnvironmentStaysInside: a container's variables reach neither the runtime, for which LD_PRELOAD would be code
// on the host, nor another container of the same image (CVE-2021-21334).
func TestEnvironmentStaysInside(t *testing.T) {
	n := prepareNode(t)
	runc, err := exec.LookPath("runc")
	n.must(err)
	telling, told := n.Base+"/telling-runc", n.Base+"/told"
	n.must(os.WriteFile(telling, fmt.Appendf(nil, "#!/bin/sh\n{ echo $*; env; } >>%s\nexec %s \"$@\"\n", told, runc), 0o755))
	n.UseRuntime(telling)
	n.must(n.Start())
	n.crictl("pull", image)
	p := n.pod("env")
	first := n.run(p, "env", "first", "sleep 1000", `"envs": [{"key": "LD_PRELOAD", "value": "/no/such.so"}, {"key": "PATH", "value": "/bin:/evil"}]`)
	second := n.run(p, "env", "second", "sleep 1000", "")
	if got := n.exec(first, "env"); !strings.Contains(got, "LD_PRELOAD=/no/such.so") || !strings.Contains(got, "PATH=/bin:/evil") {
		t.Errorf("the first has %s", got)
	}
	if got := n.exec(second, "env"); strings.Contains(got, "LD_PRELOAD") || strings.Contains(got, "evil") {
		t.Errorf("the second has %s", got)
	}
	if got, err := os.ReadFile(told); err != nil || !strings.Contains(string(got), " run --") || !strings.Contains(string(got), " exec --") ||
		strings.Contains(string(got), "LD_PRELOAD") || strings.Contains(string(got), "evil") {
		t.Errorf("the runtime has %s, %v", got, err)
	}
}

// TestFilesAreNotOtherUsers: nobody but root comes to a container's files by their path (CVE-2021-41103).
func TestFilesAreNotOtherUsers(t *testing.T) {
	n := newNode(t)
	p := n.pod("files")
	id := n.run(p, "files", "main", "echo x > /made; sleep 1000", "")
	rootfs := n.State + "/bundles/" + id + "/rootfs/bin/busybox"
	upper := n.Root + "/pods/" + p + "/containers/" + id + "/upper"
	n.eventually(func() bool { _, err := os.Stat(upper + "/made"); return err == nil })
	for _, path := range []string{rootfs, upper + "/made", n.Root + "/images/metadata.db"} {
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", path).CombinedOutput()
		if err == nil {
			t.Errorf("another user sees %s: %s", path, out)
		}
	}
}

// TestNothingIsMountedOnProc: what hides /proc would take the confinement away (CVE-2019-16884).
func TestNothingIsMountedOnProc(t *testing.T) {
	n := newNode(t)
	p := n.pod("proc")
	for _, dest := range []string{"/proc", "/proc/sys/kernel", "/proc/self/attr"} {
		mounts := fmt.Sprintf(`"mounts": [{"container_path": "%s", "host_path": "%s"}]`, dest, t.TempDir())
		if id, err := n.RunContainer(p, "proc", "c"+fmt.Sprint(len(dest)), image, "sleep 1000", mounts); err == nil {
			t.Errorf("%s is mounted upon: %s", dest, n.exec(id, "ls", "-la", dest))
		}
	}
}

// TestLogsStayInTheirDirectory: a container that may write to the directory of all logs swaps that of another one's log
// for a link, before the start and before a rotation: nothing is written where the link leads. Links above the
// directory of the pod's logs are the administrator's.
func TestLogsStayInTheirDirectory(t *testing.T) {
	n := newNode(t)
	cri := runtime.NewRuntimeServiceClient(n.dial())
	ctx, outside := t.Context(), t.TempDir()
	n.must(os.Symlink(n.Logs, n.Base+"/linked"))
	attacker := n.run(n.pod("attacker"), "attacker", "main", "sleep 1000", fmt.Sprintf(`"mounts": [{"container_path": "/logs", "host_path": "%s"}]`, n.Logs))
	swap := func(dir string) {
		n.exec(attacker, "sh", "-c", fmt.Sprintf("mv /logs/%[1]s /logs/%[1]s.was && ln -s %[2]s /logs/%[1]s", dir, outside))
	}
	create := func(name string) string {
		sandbox, container := podConfig(name), containerConfig("main", image, "sh", "-c", "while echo line; do sleep 0.1; done")
		sandbox.LogDirectory, container.LogPath = n.Base+"/linked/"+name, "main/0.log"
		sandbox.Linux = &runtime.LinuxPodSandboxConfig{CgroupParent: n.CgroupParent}
		p, err := cri.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: sandbox})
		n.must(err)
		n.must(os.MkdirAll(n.Logs+"/"+name+"/main", 0o755)) // as a kubelet does
		c, err := cri.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.GetPodSandboxId(), Config: container, SandboxConfig: sandbox})
		n.must(err)
		return c.GetContainerId()
	}
	start := func(id string) error {
		_, err := cri.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id})
		return err
	}

	for name, dir := range map[string]string{"container": "container/main", "pod": "pod"} {
		id := create(name)
		swap(dir)
		if err := start(id); err == nil || !strings.Contains(err.Error(), "open log") {
			t.Errorf("the directory of the %s's log is a link: %v", name, err)
		}
	}
	rotated := create("rotated")
	n.must(start(rotated))
	swap("rotated/main")
	if _, err := cri.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: rotated}); err == nil {
		t.Error("a log is opened anew in a directory that is a link")
	}
	n.must(n.KillMonitor()) // the next one opens the log, too
	n.eventually(func() bool {
		_, err := cri.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: rotated})
		return err != nil && strings.Contains(err.Error(), "open log")
	})
	if made, err := os.ReadDir(outside); err != nil || len(made) > 0 {
		t.Errorf("where the links lead: %v, %v", made, err)
	}
	n.exec(attacker, "sh", "-c", "rm /logs/rotated/main && mv /logs/rotated/main.was /logs/rotated/main && rm /logs/rotated/main/0.log")
	if _, err := cri.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: rotated}); err != nil {
		t.Error(err)
	}
	n.eventually(func() bool { return strings.HasSuffix(text(t, n.Logs+"/rotated/main/0.log", "stdout"), "line\nline\n") })
}
