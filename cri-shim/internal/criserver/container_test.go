package criserver

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func containerConfig() *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "app", Attempt: 3},
		Image:    &runtime.ImageSpec{Image: imageID, UserSpecifiedImage: "busybox"},
		Linux:    &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{}},
	}
}

func podWorld(t *testing.T) *world {
	w := started(t)
	w.pods.sandboxes = twoSandboxes()
	return w
}

// everything is what TestContainerIn asks, translated.
func everything() pod.ContainerConfig {
	user, group := int64(0), int64(1<<31-1)
	return pod.ContainerConfig{
		Name: "app", Attempt: 3, Image: imageID, UserSpecifiedImage: "busybox",
		Command: []string{"/bin/sh"}, Args: []string{"-c", "x"}, WorkingDir: "/work",
		Env: []pod.EnvVar{{Key: "A", Value: []byte("\xff")}, {Key: "A", Value: []byte("2")}},
		Mounts: []pod.Mount{
			{ContainerPath: "/etc/hosts", HostPath: "/x//y", Readonly: true, RecursiveReadonly: true, SELinuxRelabel: true, Propagation: pod.PropagationPrivate},
			{
				ContainerPath: "/s", HostPath: "/s", Propagation: pod.PropagationShared, Options: []string{"noexec", "nodev", "nosuid"},
				UIDs: []pod.IDMapping{{HostID: 65536, Length: 65536}}, GIDs: []pod.IDMapping{{ContainerID: 1, HostID: 2, Length: 3}},
			},
			{ContainerPath: "/i", Image: "sha256:abc", SubPath: "bin/sh", Readonly: true, Propagation: pod.PropagationPrivate},
		},
		CDIDevices: []string{"vendor.com/gpu=all"},
		Devices:    []pod.Device{{ContainerPath: "/dev/a", HostPath: "/dev/null", Permissions: "mrw"}},
		Labels:     map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
		LogPath: "app/0.log", Stdin: true, StdinOnce: true, TTY: true, StopSignal: "SIGRTMIN+3", Privileged: true,
		Namespaces: pod.Namespaces{Network: pod.ModePod, PID: pod.ModeTarget, IPC: pod.ModePod, Target: otherID},
		Security: pod.Security{
			RunAsUser: &user, RunAsGroup: &group, SupplementalGroups: []int64{1},
			AddCapabilities: []string{"NET_ADMIN", "SYS_TIME"}, DropCapabilities: []string{"ALL"}, AmbientCaps: []string{"CHOWN"},
			NoNewPrivileges: true, ReadonlyRootfs: true, MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			Seccomp:  pod.Profile{Kind: pod.ProfileLocalhost, Ref: "/p.json"},
			AppArmor: pod.Profile{Kind: pod.ProfileLocalhost, Ref: "mine"},
			SELinux:  pod.SELinuxLabel{User: "u", Role: "r", Type: "t_t", Level: "s0:c1,c2"},
		},
		Resources: pod.Resources{
			CPUPeriod: 1, CPUQuota: -1, CPUShares: 2, MemoryLimit: 4, MemorySwap: 5, OOMScoreAdj: -997, CpusetCPUs: "0-1,3", CpusetMems: "0",
			HugepageCaps: map[string]uint64{"2MB": 9}, Unified: map[string]string{"memory.high": "max"},
		},
	}
}

func TestContainerIn(t *testing.T) {
	w := podWorld(t)
	w.pods.sandboxes[0].Config.Privileged = true
	c := containerConfig()
	c.Command, c.Args, c.WorkingDir = []string{"/bin/sh"}, []string{"-c", "x"}, "/work"
	c.Envs = []*runtime.KeyValue{{Key: "A", Value: []byte("\xff")}, {Key: "A", Value: []byte("2")}}
	c.Mounts = []*runtime.Mount{
		{ContainerPath: "/etc/hosts", HostPath: "/x//y", Readonly: true, RecursiveReadOnly: true, SelinuxRelabel: true},
		{
			ContainerPath: "/s", HostPath: "/s", Propagation: runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL, MountOptions: []string{"noexec", "nodev", "nosuid"},
			UidMappings: []*runtime.IDMapping{goodMap}, GidMappings: []*runtime.IDMapping{{ContainerId: 1, HostId: 2, Length: 3}},
		},
		{ContainerPath: "/i", Image: &runtime.ImageSpec{Image: "sha256:abc"}, ImageSubPath: "bin/sh", Readonly: true},
	}
	c.CDIDevices = []*runtime.CDIDevice{{Name: "vendor.com/gpu=all"}}
	c.Devices = []*runtime.Device{{ContainerPath: "/dev/a", HostPath: "/dev/null", Permissions: "mrw"}}
	c.Labels, c.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	c.LogPath, c.Stdin, c.StdinOnce, c.Tty = "app/0.log", true, true, true
	c.StopSignal = runtime.Signal_SIGNAL_SIGRTMINPLUS3
	c.Linux.Resources = &runtime.LinuxContainerResources{
		CpuPeriod: 1, CpuQuota: -1, CpuShares: 2, MemoryLimitInBytes: 4, MemorySwapLimitInBytes: 5, OomScoreAdj: -997,
		CpusetCpus: "0-1,3", CpusetMems: "0", HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2MB", Limit: 9}},
		Unified: map[string]string{"memory.high": "max"},
	}
	c.Linux.SecurityContext = &runtime.LinuxContainerSecurityContext{
		Capabilities: &runtime.Capability{
			AddCapabilities: []string{"net_admin", "CAP_SYS_TIME"}, DropCapabilities: []string{"all"}, AddAmbientCapabilities: []string{"CHOWN"},
		},
		Privileged:       true,
		NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_TARGET, TargetId: string(otherID)},
		SelinuxOptions:   &runtime.SELinuxOption{User: "u", Role: "r", Type: "t_t", Level: "s0:c1,c2"},
		RunAsUser:        &runtime.Int64Value{Value: 0}, RunAsGroup: &runtime.Int64Value{Value: 1<<31 - 1},
		ReadonlyRootfs: true, SupplementalGroups: []int64{1}, NoNewPrivs: true,
		MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
		Seccomp:  &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "/p.json"},
		Apparmor: &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "localhost/mine"},
	}
	resp, err := w.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: string(testID[:9]), Config: c})
	if err != nil || resp.GetContainerId() != string(testID) {
		t.Fatalf("got %v, %v", resp, err)
	}
	if got := w.pods.called(); got != "create in "+string(testID) {
		t.Errorf("called %s", got)
	}
	if diff := cmp.Diff(everything(), w.pods.created[0]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestOlderProfileTextsCountOnlyWithoutTheNewFields(t *testing.T) {
	w := podWorld(t)
	for _, c := range []struct {
		seccomp, apparmor string
		field             *runtime.SecurityProfile
		wantS, wantA      pod.Profile
	}{
		{"", "", nil, pod.Profile{}, pod.Profile{}},
		{"runtime/default", "unconfined", nil, pod.Profile{Kind: pod.ProfileDefault}, pod.Profile{Kind: pod.ProfileUnconfined}},
		{"docker/default", "runtime/default", nil, pod.Profile{Kind: pod.ProfileDefault}, pod.Profile{Kind: pod.ProfileDefault}},
		{"localhost//a/b", "localhost/p", nil, pod.Profile{Kind: pod.ProfileLocalhost, Ref: "/a/b"}, pod.Profile{Kind: pod.ProfileLocalhost, Ref: "p"}},
		{
			"runtime/default", "runtime/default", &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Unconfined},
			pod.Profile{Kind: pod.ProfileUnconfined}, pod.Profile{Kind: pod.ProfileUnconfined},
		},
	} {
		cfg := containerConfig()
		sc := cfg.GetLinux().GetSecurityContext()
		sc.SeccompProfilePath, sc.ApparmorProfile = c.seccomp, c.apparmor //nolint:staticcheck // deprecated, still in the API
		sc.Seccomp, sc.Apparmor = c.field, c.field
		if _, err := w.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: string(testID), Config: cfg}); err != nil {
			t.Fatal(err)
		}
		s := w.pods.created[len(w.pods.created)-1].Security
		if s.Seccomp != c.wantS || s.AppArmor != c.wantA {
			t.Errorf("%q, %q: got %+v, %+v", c.seccomp, c.apparmor, s.Seccomp, s.AppArmor)
		}
	}
}

func TestPodModeIsThePodsPIDNamespace(t *testing.T) {
	w := podWorld(t)
	r := &runtime.CreateContainerRequest{PodSandboxId: string(otherID), Config: containerConfig()}
	r.Config.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{}
	if _, err := w.CreateContainer(t.Context(), r); err != nil || w.pods.created[0].Namespaces.PID != pod.ModeNode {
		t.Errorf("a pod on the node's: %v, %+v", err, w.pods.created)
	}
	w.pods.sandboxes[1].Config.Namespaces.PID = pod.ModeContainer
	_, err := w.CreateContainer(t.Context(), r)
	wantCode(t, err, codes.InvalidArgument, "no PID namespace to share")
	r.Config.Linux.SecurityContext.NamespaceOptions = nil
	if _, err := w.CreateContainer(t.Context(), r); err != nil || w.pods.created[1].Namespaces.PID != pod.ModeContainer {
		t.Errorf("nothing asked is what the pod has: %v, %+v", err, w.pods.created[1].Namespaces)
	}
}

func TestStopAndExecTimeouts(t *testing.T) {
	w := started(t)
	for seconds, want := range map[int64]string{0: "0s", -5: "0s", 30: "30s", 1 << 62: "87600h0m0s"} {
		if _, err := w.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: "ab", Timeout: seconds}); err != nil {
			t.Fatal(err)
		}
		if got := w.pods.called(); got != "stop ab "+want {
			t.Errorf("%d: %s", seconds, got)
		}
	}
	w.pods.exec = pod.ExecResult{Stdout: []byte("o"), Stderr: []byte("e"), ExitCode: 3}
	resp, err := w.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: "ab", Cmd: []string{"x", "y"}, Timeout: 2})
	if err != nil || string(resp.GetStdout()) != "o" || string(resp.GetStderr()) != "e" || resp.GetExitCode() != 3 || w.pods.called() != `exec ab ["x" "y"] 2s` {
		t.Errorf("got %v, %v", resp, err)
	}
	w.pods.fail = fmt.Errorf("exec in container ab: %w", context.DeadlineExceeded)
	_, err = w.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: "ab", Cmd: []string{"x"}, Timeout: 2})
	wantCode(t, err, codes.DeadlineExceeded, "exec in container ab")
	_, err = w.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: "ab"})
	wantCode(t, err, codes.InvalidArgument, "cmd is missing")
	_, err = w.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: "ab", Cmd: []string{"x"}, Timeout: -1})
	wantCode(t, err, codes.InvalidArgument, "timeout")
	w.pods.fail = fmt.Errorf("start container ab: %w: no such file", pod.ErrStart)
	_, err = w.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: "ab"})
	wantCode(t, err, codes.FailedPrecondition, "no such file")
}

func endedContainer() pod.Container {
	return pod.Container{
		ID: testID, SandboxID: otherID, State: pod.Exited, ImageID: imageID,
		CreatedAt: time.Unix(1, 1), StartedAt: time.Unix(2, 2), Reason: "OOMKilled", Message: "m", LogPath: "/var/log/x/0.log", PID: 77,
		Exit:      pod.Exit{Code: 137, FinishedAt: time.Unix(3, 3)},
		Effective: pod.Effective{UID: 1, GID: 2, Groups: []uint32{2, 3}, StopSignal: "SIGUSR1"},
		Config: pod.ContainerConfig{
			Name: "app", Attempt: 1, Image: imageID, UserSpecifiedImage: "busybox", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
			Mounts: []pod.Mount{
				{ContainerPath: "/a//b", HostPath: "/link", Readonly: true, Propagation: pod.PropagationSlave},
				{ContainerPath: "/i", Image: "sha256:abc", SubPath: "bin/sh", Readonly: true, UIDs: []pod.IDMapping{{HostID: 65536, Length: 65536}}, Options: []string{"noexec"}},
			},
			Resources: pod.Resources{MemoryLimit: 5, HugepageCaps: map[string]uint64{"2MB": 1, "1GB": 2}},
		},
	}
}

func TestContainerStatus(t *testing.T) {
	w := started(t)
	c := endedContainer()
	w.pods.containers = []pod.Container{c}
	got, err := w.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: "abab"})
	want := &runtime.ContainerStatus{
		Id: string(testID), Metadata: &runtime.ContainerMetadata{Name: "app", Attempt: 1}, State: runtime.ContainerState_CONTAINER_EXITED,
		CreatedAt: 1_000_000_001, StartedAt: 2_000_000_002, FinishedAt: 3_000_000_003, ExitCode: 137,
		Image:    &runtime.ImageSpec{Image: "busybox", UserSpecifiedImage: "busybox"},
		ImageRef: imageID, ImageId: imageID, Reason: "OOMKilled", Message: "m",
		Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
		Mounts: []*runtime.Mount{{
			ContainerPath: "/a//b", HostPath: "/link", Readonly: true, Propagation: runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		}, {
			ContainerPath: "/i", Image: &runtime.ImageSpec{Image: "sha256:abc"}, ImageSubPath: "bin/sh", Readonly: true,
			UidMappings: []*runtime.IDMapping{goodMap}, MountOptions: []string{"noexec"},
		}},
		LogPath: "/var/log/x/0.log",
		Resources: &runtime.ContainerResources{Linux: &runtime.LinuxContainerResources{
			MemoryLimitInBytes: 5, HugepageLimits: []*runtime.HugepageLimit{{PageSize: "1GB", Limit: 2}, {PageSize: "2MB", Limit: 1}},
		}},
		User:       &runtime.ContainerUser{Linux: &runtime.LinuxContainerUser{Uid: 1, Gid: 2, SupplementalGroups: []int64{2, 3}}},
		StopSignal: runtime.Signal_SIGNAL_SIGUSR1,
	}
	if diff := cmp.Diff(want, got.GetStatus(), protocmp.Transform()); diff != "" || err != nil {
		t.Errorf("-want +got:\n%s %v", diff, err)
	}
}

func TestContainerStates(t *testing.T) {
	begun, ended := time.Unix(2, 0), pod.Exit{FinishedAt: time.Unix(3, 0)}
	for _, c := range []struct {
		c        pod.Container
		want     runtime.ContainerState
		startsAt int64
	}{
		{pod.Container{State: pod.Created}, runtime.ContainerState_CONTAINER_CREATED, 0},
		{pod.Container{State: pod.Starting, StartedAt: begun}, runtime.ContainerState_CONTAINER_CREATED, 0},
		{pod.Container{State: pod.Running, StartedAt: begun}, runtime.ContainerState_CONTAINER_RUNNING, begun.UnixNano()},
		{pod.Container{State: pod.Exited, StartedAt: begun, Exit: ended}, runtime.ContainerState_CONTAINER_EXITED, begun.UnixNano()},
		{pod.Container{State: pod.Removing}, runtime.ContainerState_CONTAINER_CREATED, 0},
		{pod.Container{State: pod.Removing, StartedAt: begun}, runtime.ContainerState_CONTAINER_RUNNING, begun.UnixNano()},
		{pod.Container{State: pod.Removing, StartedAt: begun, Exit: ended}, runtime.ContainerState_CONTAINER_EXITED, begun.UnixNano()},
		{pod.Container{State: "odd"}, runtime.ContainerState_CONTAINER_UNKNOWN, 0},
	} {
		got := containerStatusOut(c.c)
		if got.GetState() != c.want || got.GetStartedAt() != c.startsAt {
			t.Errorf("%+v: %v, %d", c.c, got.GetState(), got.GetStartedAt())
		}
	}
}

func TestContainerInfoShowsTheSpec(t *testing.T) {
	w := started(t)
	w.pods.containers = []pod.Container{endedContainer()}
	read := func() (info struct {
		PID         int            `json:"pid"`
		Bundle      string         `json:"bundle"`
		RuntimeSpec map[string]any `json:"runtimeSpec"`
	}) {
		resp, err := w.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: string(testID), Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(resp.GetInfo()["info"]), &info); err != nil {
			t.Fatal(err)
		}
		return info
	}
	info := read()
	if info.PID != 77 || info.RuntimeSpec != nil {
		t.Errorf("got %+v", info)
	}
	if err := os.MkdirAll(info.Bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(info.Bundle, "config.json"), []byte(`{"ociVersion":"1.2.0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if info := read(); info.RuntimeSpec["ociVersion"] != "1.2.0" {
		t.Errorf("got %+v", info)
	}
}

func TestListContainers(t *testing.T) {
	w := podWorld(t)
	second := pod.Container{
		ID: otherID, SandboxID: testID, State: pod.Running, StartedAt: time.Unix(2, 0), ImageID: imageID,
		Config: pod.ContainerConfig{Name: "two", Image: "docker.io/library/busybox:1", Labels: map[string]string{"a": "c"}},
	}
	w.pods.containers = []pod.Container{endedContainer(), second}
	state := func(s runtime.ContainerState) *runtime.ContainerStateValue {
		return &runtime.ContainerStateValue{State: s}
	}
	for _, c := range []struct {
		name   string
		filter *runtime.ContainerFilter
		want   []pod.ID
	}{
		{"nil", nil, []pod.ID{testID, otherID}},
		{"id", &runtime.ContainerFilter{Id: "abab"}, []pod.ID{testID}},
		{"unknown", &runtime.ContainerFilter{Id: "ffff"}, nil},
		{"bad id", &runtime.ContainerFilter{Id: "/"}, nil},
		{"sandbox", &runtime.ContainerFilter{PodSandboxId: string(testID)}, []pod.ID{otherID}},
		{"short sandbox", &runtime.ContainerFilter{PodSandboxId: "cdcd"}, []pod.ID{testID}},
		{"unknown sandbox", &runtime.ContainerFilter{PodSandboxId: "ffff"}, nil},
		{"running", &runtime.ContainerFilter{State: state(runtime.ContainerState_CONTAINER_RUNNING)}, []pod.ID{otherID}},
		{"created", &runtime.ContainerFilter{State: state(runtime.ContainerState_CONTAINER_CREATED)}, nil},
		{"label", &runtime.ContainerFilter{LabelSelector: map[string]string{"a": "b"}}, []pod.ID{testID}},
		{"all", &runtime.ContainerFilter{Id: "abab", PodSandboxId: "cdcd", LabelSelector: map[string]string{"a": "b"}}, []pod.ID{testID}},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := w.ListContainers(t.Context(), &runtime.ListContainersRequest{Filter: c.filter})
			if err != nil {
				t.Fatal(err)
			}
			var got []pod.ID
			for _, i := range resp.GetContainers() {
				got = append(got, pod.ID(i.GetId()))
				if i.GetImageId() != imageID || i.GetImageRef() != imageID || strings.HasPrefix(i.GetImage().GetImage(), "sha256:") {
					t.Errorf("image of %v", i)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestSignals(t *testing.T) {
	for i := range runtime.Signal_name {
		s := runtime.Signal(i)
		var f faults
		name := signalIn(&f, "x", s)
		if f.err() != nil || s != runtime.Signal_SIGNAL_RUNTIME_DEFAULT && signalOut(name) != s {
			t.Errorf("%v: %q is %v, %v", s, name, signalOut(name), f.err())
		}
	}
	for name, want := range map[string]runtime.Signal{
		"15": runtime.Signal_SIGNAL_SIGTERM, "TERM": runtime.Signal_SIGNAL_SIGTERM, "sigquit": runtime.Signal_SIGNAL_SIGQUIT,
		"6": runtime.Signal_SIGNAL_SIGABRT, "17": runtime.Signal_SIGNAL_SIGCHLD, "RTMIN+3": runtime.Signal_SIGNAL_SIGRTMINPLUS3,
		"": runtime.Signal_SIGNAL_RUNTIME_DEFAULT, "nonsense": runtime.Signal_SIGNAL_RUNTIME_DEFAULT,
	} {
		if got := signalOut(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
