package kubelet

import (
	"fmt"
	"strings"
	"testing"
)

// waits waits until a container waits for a reason.
func (w *world) waits(t *testing.T, name, reason string) string {
	t.Helper()
	p := w.until(t, name, reason, func(p Pod) bool {
		s := p.Container("main").State.Waiting
		return s != nil && s.Reason == reason
	})
	return p.Container("main").State.Waiting.Message
}

func withImage(ref, policy string) string {
	return fmt.Sprintf("containers:\n- {name: main, image: '%s', imagePullPolicy: %s, command: [sh, -c, 'while :; do sleep 1; done']}", ref, policy)
}

func testNoImage(t *testing.T, w *world) {
	w.pod(t, "noimage", withImage("podwright.test/missing:1", "Always"))
	contains(t, "message", w.waits(t, "noimage", "ErrImagePull"), "podwright.test/missing:1", "not found")
	contains(t, "message", w.waits(t, "noimage", "ImagePullBackOff"), "Back-off pulling image", "podwright.test/missing:1")
	w.pod(t, "noregistry", withImage("127.0.0.1:1/missing:1", "Always"))
	contains(t, "message", w.waits(t, "noregistry", "RegistryUnavailable"), "127.0.0.1:1", "connection refused")
}

func testImagePolicies(t *testing.T, w *world) {
	w.pod(t, "policy-never", withImage("podwright.test/missing:2", "Never"))
	w.waits(t, "policy-never", "ErrImageNeverPull")
	w.pod(t, "policy-invalid", withImage("podwright.test/UPPER:1", "Always"))
	w.waits(t, "policy-invalid", "InvalidImageName")
	w.pod(t, "policy-present", withImage(image, "IfNotPresent"))
	p := w.running(t, "policy-present")
	id := p.Container("main").ImageID
	repo, digest, ok := strings.Cut(id, "@sha256:")
	if !ok || repo != strings.TrimSuffix(image, ":latest") || len(digest) != 64 {
		t.Errorf("imageID %q, want the repository and the digest that was pulled", id)
		return
	}
	w.pod(t, "policy-digest", withImage(id, "Always"))
	equal(t, "the same image by its digest", w.running(t, "policy-digest").Container("main").ImageID, id)
}
