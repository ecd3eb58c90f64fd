package rootfs

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func TestHasProfile(t *testing.T) {
	const list = "docker-default (enforce)\n/usr/bin/man (complain)\nname with (brackets) (unconfined)\nnot\n"
	for name, want := range map[string]bool{
		"docker-default": true, "/usr/bin/man": true, "name with (brackets)": true,
		"docker": false, "docker-default (enforce)": false, "name with": false, "": false, "not": false,
	} {
		if got := hasProfile(list, name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

// TestNoAppArmor: what cannot be enforced is refused, but for the default profile.
func TestNoAppArmor(t *testing.T) {
	for kind, refused := range map[pod.ProfileKind]bool{pod.ProfileUnset: false, pod.ProfileUnconfined: false, pod.ProfileDefault: false, pod.ProfileLocalhost: true} {
		got, err := appArmor(pod.Profile{Kind: kind, Ref: "x"}, false, false)
		if got != "" || errors.Is(err, errdefs.ErrInvalidArgument) != refused {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
	}
	if got, err := appArmor(pod.Profile{Kind: pod.ProfileDefault}, true, true); got != "" || err != nil {
		t.Errorf("privileged: %q, %v", got, err)
	}
}
