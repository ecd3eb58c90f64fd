package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

const localHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::0	ip6-localnet
ff00::0	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// PrepareSandbox implements pod.Bundles.
func (m *Maker) PrepareSandbox(_ context.Context, s pod.Sandbox) error {
	dir := m.opt.Layout.Shared(string(s.ID))
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make the sandbox's files: %w", err)
	}
	resolv, err := resolvConf(s.Config.DNS)
	if err != nil {
		return err
	}
	hostname := s.Config.Hostname
	if hostname == "" {
		if hostname, err = os.Hostname(); err != nil {
			return fmt.Errorf("read the host's name: %w", err)
		}
	}
	hosts := []byte(localHosts)
	if s.HostNetwork() {
		if hosts, err = readIfThere("/etc/hosts"); err != nil {
			return err
		}
	}
	labels, err := m.labelSandbox(s)
	if err != nil {
		return err
	}
	uid, gid := s.Root()
	for name, content := range map[string][]byte{"resolv.conf": resolv, "hostname": []byte(hostname + "\n"), "hosts": hosts} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, content, 0o644), os.Chown(path, uid, gid)); err != nil {
			return fmt.Errorf("make the sandbox's files: %w", err)
		}
		if err := m.relabel(path, labels.Mount); err != nil {
			return err
		}
	}
	if s.HostIPC() {
		return nil
	}
	return mountShm(filepath.Join(dir, "shm"), labels.Mount)
}

// mountShm mounts the /dev/shm of a pod: 64 MiB, as everywhere.
func mountShm(path, label string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make shm: %w", err)
	}
	var st unix.Statfs_t
	var up, here unix.Stat_t
	if unix.Statfs(path, &st) == nil && st.Type == unix.TMPFS_MAGIC && unix.Stat(path, &here) == nil && unix.Stat(filepath.Dir(path), &up) == nil && here.Dev != up.Dev {
		return nil // mounted before a crash
	}
	if err := unix.Mount("shm", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size=65536k"+labelled(label)); err != nil {
		return fmt.Errorf("mount shm: %w", err)
	}
	return nil
}

// resolvConf renders resolv.conf(5): nil is the host's, an empty one is empty.
func resolvConf(d *pod.DNS) ([]byte, error) {
	if d == nil {
		return readIfThere("/etc/resolv.conf")
	}
	for _, word := range append(append(append([]string{}, d.Servers...), d.Searches...), d.Options...) {
		if word == "" || strings.ContainsAny(word, " \t\r\n\x00") {
			return nil, fmt.Errorf("dns_config: %.100q must be one word: %w", word, errdefs.ErrInvalidArgument)
		}
	}
	var b strings.Builder
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, server := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return []byte(b.String()), nil
}

func readIfThere(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("copy from the host: %w", err)
	}
	return data, nil
}
