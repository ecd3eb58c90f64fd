package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hostPaths puts directories of the node in the place of those that a kubelet has on every host: its root, which is also where
// device plugins find it, and the logs of pods. Only this mount namespace sees them.
func (k *Kubelet) hostPaths() error {
	// The host may not have the first, and making it would change the host.
	if err := k.mount("tmpfs", "/var/lib", "tmpfs", 0); err != nil {
		return err
	}
	if err := os.Mkdir(k.Root, 0o755); err != nil {
		return err
	}
	for from, to := range map[string]string{k.base + "/root": k.Root, k.base + "/log": "/var/log"} {
		if err := k.mount(from, to, "", unix.MS_BIND); err != nil {
			return err
		}
	}
	// A volume of a pod is passed on to containers that run already only from a shared mount.
	if err := unix.Mount("", k.Root, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share %s: %w", k.Root, err)
	}
	return nil
}

// tunables are the kernel settings that a kubelet makes for the whole host, and never takes back, unless it finds them made.
var tunables = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// WithTunables is the command of a program that finds the tunables made, by files of dir in their place. That is in one more mount namespace: with a file over
// it, the kernel lets nobody else mount a /proc of a user namespace. What is mounted below the kubelet's root is seen in both.
func WithTunables(dir string, args ...string) ([]string, error) {
	script := "set -e\n"
	for name, value := range tunables {
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o444); err != nil {
			return nil, err
		}
		script += "mount --bind " + file + " /proc/sys/" + name + "\n"
	}
	return append([]string{"unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script + `exec "$@"`, "sh"}, args...), nil
}

func (k *Kubelet) mount(source, target, kind string, flags uintptr) error {
	if err := unix.Mount(source, target, kind, flags, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	k.mounts = append(k.mounts, target)
	return nil
}

func (k *Kubelet) dropMounts() error {
	var faults []error
	for _, target := range slices.Backward(k.mounts) {
		if err := unix.Unmount(target, 0); err != nil { // busy is a fault: something was left mounted
			faults = append(faults, fmt.Errorf("unmount %s: %w", target, err))
		}
	}
	k.mounts = nil
	return errors.Join(faults...)
}

// address gives the node an address and a default route, on a bridge without ports.
func (k *Kubelet) address() error {
	for _, line := range []string{
		"ip link add " + hostLink + " type bridge", "ip link set " + hostLink + " up",
		"ip address add " + HostIP + "/24 dev " + hostLink, "ip route add default via 192.0.2.254",
	} {
		if err := run(line); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kubelet) dropAddress() error { return run("ip link delete " + hostLink) }

// dropTables removes the iptables chains by which a kubelet tells others that it is there: it never does. Without iptables there are none.
func (k *Kubelet) dropTables() error {
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return fmt.Errorf("nft list tables: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		switch line = strings.TrimSpace(line); line {
		case "table ip filter", "table ip mangle", "table ip nat", "table ip6 filter", "table ip6 mangle", "table ip6 nat":
			err = errors.Join(err, run("nft delete "+line))
		}
	}
	return err
}

func run(line string) error {
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// Hierarchies are the directories in which a cgroup by that path can be: one with cgroup v2, one per controller with v1.
func Hierarchies() ([]string, error) {
	const top = "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.controllers"); err == nil {
		return []string{top}, nil
	}
	return filepath.Glob(top + "/*")
}

// MakeCgroup makes a cgroup in every hierarchy. A kubelet refuses to start without the one that all of its own are in.
func MakeCgroup(path string) error {
	tops, err := Hierarchies()
	if err != nil {
		return err
	}
	for _, top := range tops {
		if err := os.MkdirAll(top+path, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// DropCgroups removes a cgroup and all below it: what a kubelet keeps for its next start. One with a process in it is a fault.
func DropCgroups(path string) error {
	tops, err := Hierarchies()
	if err != nil {
		return err
	}
	var dirs []string
	for _, top := range tops {
		err = errors.Join(err, filepath.WalkDir(top+path, func(dir string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, dir)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}))
	}
	for _, dir := range slices.Backward(dirs) {
		if e := unix.Rmdir(dir); e != nil && !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("remove cgroup %s: %w", dir, e))
		}
	}
	return err
}
