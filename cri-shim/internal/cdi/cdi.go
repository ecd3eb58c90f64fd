// Package cdi gives containers the devices that vendors describe in files (Container Device Interface, CNCF): device
// nodes, mounts, environment and hooks under one name like vendor.com/class=name. The files are the administrator's;
// a pod names devices and nothing else. A directory that others can write to is refused.
//
// Crash story: none; it keeps nothing, and reads the files anew for every container that asks.
package cdi

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	lib "tags.cncf.io/container-device-interface/pkg/cdi"
)

// Dirs are the directories of the files; a later one has precedence. None is no devices.
type Dirs []string

// Inject adds the named devices to a configuration. A name that no file has, or that several have with the same
// precedence, is ErrInvalidArgument.
func (d Dirs) Inject(spec *specs.Spec, names []string) error {
	if len(names) == 0 {
		return nil
	}
	bad := func(err error) error {
		shown := fmt.Sprintf("%.200q", strings.Join(names, ", "))
		return fmt.Errorf("CDI_devices %s: %w: %w", shown, err, errdefs.ErrInvalidArgument)
	}
	if len(d) == 0 {
		return bad(errors.New("no directory of CDI files is configured"))
	}
	if err := d.trusted(); err != nil {
		return fmt.Errorf("CDI_devices: %w", err)
	}
	cache, err := lib.NewCache(lib.WithSpecDirs(d...), lib.WithAutoRefresh(false))
	if err != nil {
		return bad(err)
	}
	// A broken file of another vendor is no reason to refuse; one that was asked for is not there then.
	fault := cache.Refresh()
	if unresolved, err := cache.InjectDevices(spec, names...); err != nil {
		if len(unresolved) > 0 && fault != nil {
			err = fmt.Errorf("%w (%w)", err, fault)
		}
		return bad(err)
	}
	return nil
}

// trusted refuses directories in which others than us and root write: a device may bring hooks, which run as root on
// the host.
func (d Dirs) trusted() error {
	for _, dir := range d {
		var st unix.Stat_t
		err := unix.Stat(dir, &st)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		ours := st.Uid == 0 || int(st.Uid) == os.Geteuid()
		if !ours || st.Mode&unix.S_IWOTH != 0 || (st.Mode&unix.S_IWGRP != 0 && st.Gid != 0) {
			return fmt.Errorf("cdi_spec_dirs: %s is of user %d, group %d, mode %#o: others than root may write to it: %w",
				dir, st.Uid, st.Gid, st.Mode&0o7777, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}
