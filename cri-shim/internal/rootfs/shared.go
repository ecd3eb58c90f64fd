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
	if err := mountShared(dir); err != nil {
		return err
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
	shm := filepath.Join(dir, "shm")
	if err := os.Mkdir(shm, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make shm: %w", err)
	}
	if err := os.Chmod(shm, 0o777|fs.ModeSticky); err != nil {
		return fmt.Errorf("make shm: %w", err)
	}
	return m.relabel(shm, labels.Mount)
}

// mountShared mounts what holds all that a pod's containers may write outside of their layers, /dev/shm and the files
// in /etc: 64 MiB, as everywhere for /dev/shm. In the state directory itself they could fill the host's /run.
func mountShared(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make the sandbox's files: %w", err)
	}
	var up, here unix.Stat_t
	if unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &up) == nil && here.Dev != up.Dev {
		return nil // mounted before a crash
	}
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0711,size=65536k"); err != nil {
		return fmt.Errorf("mount the sandbox's files: %w", err)
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
