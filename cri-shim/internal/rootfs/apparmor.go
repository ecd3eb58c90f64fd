package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// defaultAppArmor is the name under which the default profile is loaded: the one of containerd, which lets a
// container have nothing that its capabilities would not.
const defaultAppArmor = "cri-shim.apparmor.d"

// appArmorProfiles lists what the kernel has loaded (apparmor.d(5)).
const appArmorProfiles = "/sys/kernel/security/apparmor/profiles"

// appArmor returns the profile that a container runs under, "" for none. A profile by name must be loaded, or the
// container would fail at its start, or worse, run without. Without AppArmor only the default one may be left out.
func appArmor(p pod.Profile, privileged, enabled bool) (string, error) {
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("apparmor profile %.100q: %s: %w", p.Ref, why, errdefs.ErrInvalidArgument)
	}
	switch {
	case p.Kind == pod.ProfileLocalhost && !enabled:
		return bad("AppArmor is not enabled on this host")
	case p.Kind == pod.ProfileLocalhost:
		list, err := os.ReadFile(appArmorProfiles)
		if err != nil {
			return "", fmt.Errorf("list the AppArmor profiles: %w", err)
		}
		if !hasProfile(string(list), p.Ref) {
			return bad("is not loaded on this host")
		}
		return p.Ref, nil
	case p.Kind != pod.ProfileDefault || privileged || !enabled:
		return "", nil
	}
	if _, err := exec.LookPath("apparmor_parser"); errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return "", nil // nothing can load it: as without AppArmor
	}
	if err := apparmor.LoadDefaultProfile(defaultAppArmor); err != nil {
		return "", fmt.Errorf("load the default AppArmor profile: %w", err)
	}
	return defaultAppArmor, nil
}

// hasProfile looks for a name in lines like "name (enforce)". Names may have spaces.
func hasProfile(list, name string) bool {
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if i := strings.LastIndex(line, " ("); i >= 0 && line[:i] == name {
			return true
		}
	}
	return false
}
