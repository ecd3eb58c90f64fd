package criserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func sandboxRequest() *runtime.RunPodSandboxRequest {
	return &runtime.RunPodSandboxRequest{Config: &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u-1", Attempt: 2},
		Linux:    &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{}},
	}}
}

func TestSandboxIn(t *testing.T) {
	w := started(t)
	r := sandboxRequest()
	c := r.GetConfig()
	r.RuntimeHandler = "crun"
	c.Hostname, c.LogDirectory = "web-0", "/var/log/pods/x/"
	c.DnsConfig = &runtime.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"a.b"}, Options: []string{"ndots:5"}}
	c.PortMappings = []*runtime.PortMapping{
		{Protocol: runtime.Protocol_UDP, ContainerPort: 53, HostPort: 5353, HostIp: "127.0.0.1"},
		{Protocol: runtime.Protocol_SCTP, ContainerPort: 0},
	}
	c.Labels, c.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	c.Linux.CgroupParent = "/kubepods/pod1"
	c.Linux.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "1024 65000", "kernel/shm_rmid_forced": "1", "net/ipv4/conf/eth0.100/forwarding": "0"}
	c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{
		NamespaceOptions:   &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER, UsernsOptions: &runtime.UserNamespace{Mode: runtime.NamespaceMode_NODE}},
		RunAsGroup:         &runtime.Int64Value{Value: 5}, // without a user: the image's is meant
		SupplementalGroups: []int64{7}, SupplementalGroupsPolicy: runtime.SupplementalGroupsPolicy_Strict,
		Privileged: true, ReadonlyRootfs: true,
		Seccomp: &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault},
	}
	resp, err := w.RunPodSandbox(t.Context(), r)
	if err != nil || resp.GetPodSandboxId() != string(testID) {
		t.Fatalf("got %v, %v", resp, err)
	}
	group := int64(5)
	want := pod.SandboxConfig{
		Name: "web", Namespace: "default", UID: "u-1", Attempt: 2, Handler: "crun", Hostname: "web-0", LogDirectory: "/var/log/pods/x",
		DNS: &pod.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"a.b"}, Options: []string{"ndots:5"}},
		Ports: []pod.PortMapping{
			{Protocol: "udp", ContainerPort: 53, HostPort: 5353, HostIP: "127.0.0.1"}, {Protocol: "sctp"},
		},
		Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, CgroupParent: "/kubepods/pod1",
		Sysctls:    map[string]string{"net.ipv4.ip_local_port_range": "1024 65000", "kernel.shm_rmid_forced": "1", "net.ipv4.conf.eth0/100.forwarding": "0"},
		Namespaces: pod.Namespaces{Network: pod.ModePod, PID: pod.ModeContainer, IPC: pod.ModePod}, Privileged: true,
		Security: pod.Security{
			RunAsGroup: &group, SupplementalGroups: []int64{7}, StrictGroups: true, ReadonlyRootfs: true,
			Seccomp: pod.Profile{Kind: pod.ProfileDefault},
		},
	}
	if diff := cmp.Diff(want, w.pods.ran[0]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestNilAndEmptyDNSDiffer(t *testing.T) {
	w := started(t)
	for _, dns := range []*runtime.DNSConfig{nil, {}} {
		r := sandboxRequest()
		r.Config.DnsConfig = dns
		if _, err := w.RunPodSandbox(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if w.pods.ran[0].DNS != nil || w.pods.ran[1].DNS == nil {
		t.Errorf("nil: %v, empty: %v", w.pods.ran[0].DNS, w.pods.ran[1].DNS)
	}
	if n := w.pods.ran[0].Namespaces; n.PID != pod.ModePod || n.Network != pod.ModePod || n.IPC != pod.ModePod {
		t.Errorf("the zero value is POD: %+v", n)
	}
}

func TestCgroupParentOfSystemd(t *testing.T) {
	w := started(t, func(d *Deps) { d.SystemdCgroup = true })
	r := sandboxRequest()
	r.Config.Linux.CgroupParent = "/kubepods.slice/kubepods-burstable.slice"
	if _, err := w.RunPodSandbox(t.Context(), r); err != nil || w.pods.ran[0].CgroupParent != "kubepods-burstable.slice" {
		t.Errorf("got %v, %+v", err, w.pods.ran)
	}
	r.Config.Linux.CgroupParent = "/kubepods/burstable"
	_, err := w.RunPodSandbox(t.Context(), r)
	wantCode(t, err, codes.InvalidArgument, "systemd")
}

// A malformed id is one that nothing has; looked up it is never.
func TestIDs(t *testing.T) {
	w := started(t)
	for _, id := range []string{"../../etc", "a/b", "..", "nosuch", strings.Repeat("a", 65), strings.Repeat("f", 1<<20), "ABCDEF", "a\x00"} {
		t.Run(cut(id), func(t *testing.T) {
			_, err := w.StopPodSandbox(t.Context(), &runtime.StopPodSandboxRequest{PodSandboxId: id})
			wantCode(t, err, codes.OK, "")
			_, err = w.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: id})
			wantCode(t, err, codes.OK, "")
			_, err = w.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: id})
			wantCode(t, err, codes.OK, "")
			_, err = w.RemoveContainer(t.Context(), &runtime.RemoveContainerRequest{ContainerId: id})
			wantCode(t, err, codes.OK, "")
			_, err = w.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: id})
			wantCode(t, err, codes.NotFound, "sandbox")
			_, err = w.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: id})
			wantCode(t, err, codes.NotFound, "container")
			_, err = w.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: id})
			wantCode(t, err, codes.NotFound, "container")
			_, err = w.ReopenContainerLog(t.Context(), &runtime.ReopenContainerLogRequest{ContainerId: id})
			wantCode(t, err, codes.NotFound, "container")
			_, err = w.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"x"}})
			wantCode(t, err, codes.NotFound, "container")
			_, err = w.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: id, Config: containerConfig()})
			wantCode(t, err, codes.NotFound, "sandbox")
		})
	}
	_, err := w.StopPodSandbox(t.Context(), &runtime.StopPodSandboxRequest{})
	wantCode(t, err, codes.InvalidArgument, "pod_sandbox_id is missing")
	_, err = w.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{})
	wantCode(t, err, codes.InvalidArgument, "container_id is missing")
	if got := w.pods.called(); got != "" {
		t.Errorf("looked up: %s", got)
	}
}

// NotFound is how the kubelet learns that a thing is gone; a stop that failed must not say so.
func TestStopNeverSaysNotFound(t *testing.T) {
	w := started(t)
	w.pods.fail = fmt.Errorf("run runc: %w", errdefs.ErrNotFound)
	_, err := w.StopPodSandbox(t.Context(), &runtime.StopPodSandboxRequest{PodSandboxId: string(testID)})
	wantCode(t, err, codes.Internal, "run runc")
	_, err = w.RemoveContainer(t.Context(), &runtime.RemoveContainerRequest{ContainerId: string(testID)})
	wantCode(t, err, codes.Internal, "run runc")
	w.pods.fail = errors.New("busy")
	_, err = w.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: string(testID)})
	wantCode(t, err, codes.Internal, "busy")
}

func twoSandboxes() []pod.Sandbox {
	return []pod.Sandbox{
		{
			ID: testID, State: pod.Ready, CreatedAt: time.Unix(3, 4), BootID: "b", InitPID: 42,
			Config: pod.SandboxConfig{
				Name: "web", Namespace: "ns", UID: "u", Attempt: 1, Handler: "crun",
				Labels: map[string]string{"app": "web", "tier": "a"}, Annotations: map[string]string{"x": "y"},
				Namespaces: pod.Namespaces{Network: pod.ModePod, PID: pod.ModePod, IPC: pod.ModePod},
			},
			Network: pod.NetworkResult{IPs: []netip.Addr{netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00::5")}},
		},
		{
			ID: otherID, State: pod.NotReady, CreatedAt: time.Unix(5, 0),
			Config: pod.SandboxConfig{
				Name: "host", Namespace: "ns", UID: "v", Labels: map[string]string{"app": "web"},
				Namespaces: pod.Namespaces{Network: pod.ModeNode, PID: pod.ModeNode, IPC: pod.ModePod},
			},
		},
	}
}

func TestPodSandboxStatus(t *testing.T) {
	w := started(t)
	w.pods.sandboxes = twoSandboxes()
	got, err := w.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: string(testID[:12]), Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	want := &runtime.PodSandboxStatus{
		Id: string(testID), Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "ns", Uid: "u", Attempt: 1},
		State: runtime.PodSandboxState_SANDBOX_READY, CreatedAt: 3_000_000_004,
		Network: &runtime.PodSandboxNetworkStatus{Ip: "10.1.0.5", AdditionalIps: []*runtime.PodIP{{Ip: "fd00::5"}}},
		Linux:   &runtime.LinuxPodSandboxStatus{Namespaces: &runtime.Namespace{Options: &runtime.NamespaceOption{}}},
		Labels:  map[string]string{"app": "web", "tier": "a"}, Annotations: map[string]string{"x": "y"}, RuntimeHandler: "crun",
	}
	if diff := cmp.Diff(want, got.GetStatus(), protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var info struct {
		PID   int    `json:"pid"`
		NetNS string `json:"netns"`
	}
	if err := json.Unmarshal([]byte(got.GetInfo()["info"]), &info); err != nil || info.PID != 42 || !strings.HasSuffix(info.NetNS, string(testID)+"/net") {
		t.Errorf("info: %v, %v", got.GetInfo(), err)
	}

	got, err = w.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: string(otherID)})
	if err != nil {
		t.Fatal(err)
	}
	s := got.GetStatus()
	o := s.GetLinux().GetNamespaces().GetOptions()
	if s.GetState() != runtime.PodSandboxState_SANDBOX_NOTREADY || s.GetNetwork().GetIp() != "" ||
		o.GetNetwork() != runtime.NamespaceMode_NODE || o.GetPid() != runtime.NamespaceMode_NODE || o.GetIpc() != runtime.NamespaceMode_POD || got.GetInfo() != nil {
		t.Errorf("host network: %v", got)
	}
}

func TestListPodSandbox(t *testing.T) {
	w := started(t)
	w.pods.sandboxes = twoSandboxes()
	ready := &runtime.PodSandboxStateValue{State: runtime.PodSandboxState_SANDBOX_READY}
	notReady := &runtime.PodSandboxStateValue{State: runtime.PodSandboxState_SANDBOX_NOTREADY}
	for _, c := range []struct {
		name   string
		filter *runtime.PodSandboxFilter
		want   []pod.ID
	}{
		{"nil", nil, []pod.ID{testID, otherID}},
		{"empty", &runtime.PodSandboxFilter{}, []pod.ID{testID, otherID}},
		{"id", &runtime.PodSandboxFilter{Id: string(otherID)}, []pod.ID{otherID}},
		{"short id", &runtime.PodSandboxFilter{Id: "cdcd"}, []pod.ID{otherID}},
		{"unknown id", &runtime.PodSandboxFilter{Id: "eeee"}, nil},
		{"bad id", &runtime.PodSandboxFilter{Id: "../x"}, nil},
		{"ready", &runtime.PodSandboxFilter{State: ready}, []pod.ID{testID}},
		{"not ready", &runtime.PodSandboxFilter{State: notReady}, []pod.ID{otherID}},
		{"label", &runtime.PodSandboxFilter{LabelSelector: map[string]string{"app": "web"}}, []pod.ID{testID, otherID}},
		{"both labels", &runtime.PodSandboxFilter{LabelSelector: map[string]string{"app": "web", "tier": "a"}}, []pod.ID{testID}},
		{"empty value", &runtime.PodSandboxFilter{LabelSelector: map[string]string{"nolabel": ""}}, nil},
		{"id and state", &runtime.PodSandboxFilter{Id: string(otherID), State: ready}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := w.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{Filter: c.filter})
			if err != nil {
				t.Fatal(err)
			}
			var got []pod.ID
			for _, i := range resp.GetItems() {
				got = append(got, pod.ID(i.GetId()))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	resp, err := w.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{Filter: &runtime.PodSandboxFilter{Id: string(testID)}})
	want := &runtime.PodSandbox{
		Id: string(testID), Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "ns", Uid: "u", Attempt: 1},
		CreatedAt: 3_000_000_004, Labels: map[string]string{"app": "web", "tier": "a"}, Annotations: map[string]string{"x": "y"}, RuntimeHandler: "crun",
	}
	if diff := cmp.Diff(want, resp.GetItems()[0], protocmp.Transform()); diff != "" || err != nil {
		t.Errorf("-want +got:\n%s %v", diff, err)
	}
}

// TestPodSandboxStatusTellsOfTheNetwork: a network that is not as it was made is shown, and changes no state.
func TestPodSandboxStatusTellsOfTheNetwork(t *testing.T) {
	w := started(t)
	w.pods.sandboxes = twoSandboxes()
	status := func(id pod.ID) (runtime.PodSandboxState, *pod.NetworkCheck) {
		got, err := w.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: string(id), Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		info := struct {
			NetworkCheck *pod.NetworkCheck `json:"networkCheck"`
		}{&pod.NetworkCheck{}}
		if err := json.Unmarshal([]byte(got.GetInfo()["info"]), &info); err != nil {
			t.Fatal(err)
		}
		return got.GetStatus().GetState(), info.NetworkCheck
	}
	if _, c := status(testID); c != nil {
		t.Errorf("before the first check: %+v", c)
	}
	w.network.check = map[pod.ID]pod.NetworkCheck{testID: {Fault: "no route", Checks: 2, Failures: 1}}
	if state, c := status(testID); state != runtime.PodSandboxState_SANDBOX_READY || c == nil || *c != w.network.check[testID] {
		t.Errorf("got %v, %+v", state, c)
	}
}
