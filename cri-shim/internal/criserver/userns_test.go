package criserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func TestUserNamespaceIn(t *testing.T) {
	w := started(t)
	r := sandboxRequest()
	r.RuntimeHandler = "crun"
	mapped(goodMap, nil)(r, r.GetConfig())
	if _, err := w.RunPodSandbox(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	ids := pod.IDMapping{HostID: 65536, Length: 65536}
	want := &pod.UserNamespace{UID: ids, GID: ids}
	if diff := cmp.Diff(want, w.pods.ran[0].Namespaces.User); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	got := namespacesOut(w.pods.ran[0].Namespaces)
	asked := r.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions()
	if diff := cmp.Diff(asked, got, protocmp.Transform()); diff != "" {
		t.Errorf("a status shows: -want +got:\n%s", diff)
	}
}

// TestContainersShareTheUserNamespace: what is not asked is the sandbox's, as for every other namespace.
func TestContainersShareTheUserNamespace(t *testing.T) {
	ids := pod.IDMapping{HostID: 65536, Length: 65536}
	for name, options := range map[string]*runtime.NamespaceOption{
		"nothing asked": nil,
		"only pid":      {Pid: runtime.NamespaceMode_CONTAINER},
		"the same":      userns(runtime.NamespaceMode_POD, goodMap),
	} {
		t.Run(name, func(t *testing.T) {
			w := podWorld(t)
			w.pods.sandboxes[0].Config.Namespaces.User = &pod.UserNamespace{UID: ids, GID: ids}
			if u := options.GetUsernsOptions(); u != nil {
				u.Gids = u.Uids
			}
			c := containerConfig()
			c.Linux.SecurityContext.NamespaceOptions = options
			if _, err := w.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: string(testID), Config: c}); err != nil {
				t.Fatal(err)
			}
			if u := w.pods.created[0].Namespaces.User; u == nil || u.UID != ids {
				t.Errorf("got %v", u)
			}
		})
	}
}
