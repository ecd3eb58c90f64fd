package criserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
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

// TestUserNamespaceWithHostNetwork needs /sys to be read-only with all that is mounted below.
func TestUserNamespaceWithHostNetwork(t *testing.T) {
	for _, can := range []bool{true, false} {
		w := started(t, func(d *Deps) {
			d.Handlers = []Handler{{}, {Name: "crun", UserNamespaces: true, RecursiveReadOnly: can}}
		})
		r := sandboxRequest()
		r.RuntimeHandler = "crun"
		r.Config.PortMappings = nil
		mapped(goodMap, func(o *runtime.NamespaceOption) { o.Network = runtime.NamespaceMode_NODE })(r, r.GetConfig())
		r.Config.Linux.Sysctls = nil
		_, err := w.RunPodSandbox(t.Context(), r)
		if can && (err != nil || len(w.pods.ran) != 1) {
			t.Errorf("got %v", err)
		}
		if !can {
			wantCode(t, err, codes.Unimplemented, `network NODE with userns_options.mode POD is not supported by runtime handler "crun"`)
		}
		s, err := w.Status(t.Context(), &runtime.StatusRequest{})
		if err != nil || s.GetFeatures().GetUserNamespacesHostNetwork() != can {
			t.Errorf("announced: %v, %v, want %t", s.GetFeatures(), err, can)
		}
	}
}
