// Package cdi gives containers the devices that vendors describe in files (Container Device Interface, CNCF): device
// nodes, mounts, environment and hooks under one name like vendor.com/class=name. The files are the administrator's;
// a pod names devices and nothing else.
//
// Crash story: none; it keeps nothing, and reads the files anew for every container that asks.
package cdi

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
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
