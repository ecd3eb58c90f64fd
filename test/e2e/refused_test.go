package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dial speaks the CRI directly: crictl would not send what these tests send.
func (n *tester) dial() *grpc.ClientConn {
	n.t.Helper()
	const most = 16 << 20 // as a kubelet reads
	conn, err := grpc.NewClient("unix://"+n.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(most)))
	n.must(err)
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// refused is one request that must fail with a code and a text.
type refused struct {
	name string
	call func(context.Context) error
	code codes.Code
	text string
}

func (n *tester) refuse(cases []refused) {
	n.t.Helper()
	for _, c := range cases {
		ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
		err := c.call(ctx)
		cancel()
		if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.text) {
			n.t.Errorf("%s: got %v, want %s with %q", c.name, err, c.code, c.text)
		}
	}
}

func podConfig(name string) *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name}}
}

func containerConfig(name, image string, command ...string) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: image}, Command: command,
	}
}

// TestRefusedSandboxes: what cannot be run is refused with the field and the value, and nothing is left.
func TestRefusedSandboxes(t *testing.T) {
	n := newNode(t)
	cri := runtime.NewRuntimeServiceClient(n.dial())
	run := func(cfg *runtime.PodSandboxConfig, handler string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := cri.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: cfg, RuntimeHandler: handler})
			return err
		}
	}
	slash := podConfig("a/../../b")
	n.refuse([]refused{
		{"no configuration", run(nil, ""), codes.InvalidArgument, "config"},
		{"no metadata", run(&runtime.PodSandboxConfig{}, ""), codes.InvalidArgument, "config.metadata"},
		{"a name that is a path", run(slash, ""), codes.InvalidArgument, "a/../../b"},
		{"an unknown handler", run(podConfig("x"), "no-such-handler"), codes.InvalidArgument, "no-such-handler"},
	})
	if got := n.crictl("pods", "-q"); got != "" {
		t.Errorf("pods: %q", got)
	}
}

// TestRefusedIDs: an id that is a path is an id that nothing has.
func TestRefusedIDs(t *testing.T) {
	n := newNode(t)
	cri := runtime.NewRuntimeServiceClient(n.dial())
	for _, id := range []string{"../../etc", "a/b", "..", strings.Repeat("f", 10_000), "\x00", "%2e%2e"} {
		n.refuse([]refused{
			{"status of a pod", func(ctx context.Context) error {
				_, err := cri.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: id})
				return err
			}, codes.NotFound, ""},
			{"status of a container", func(ctx context.Context) error {
				_, err := cri.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
				return err
			}, codes.NotFound, ""},
			{"start", func(ctx context.Context) error {
				_, err := cri.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id})
				return err
			}, codes.NotFound, ""},
			{"stop", func(ctx context.Context) error {
				_, err := cri.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: id})
				return err
			}, codes.OK, ""},
			{"remove", func(ctx context.Context) error {
				_, err := cri.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id})
				return err
			}, codes.OK, ""},
		})
	}
}

// TestRefusedContainers: what cannot run is refused where the kubelet expects it, and leaves nothing.
func TestRefusedContainers(t *testing.T) {
	n := newNode(t)
	conn := n.dial()
	cri, imgs := runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn)
	p := n.pod("refused")
	create := func(cfg *runtime.ContainerConfig) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := cri.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p, Config: cfg, SandboxConfig: podConfig("refused")})
			return err
		}
	}
	mounting := containerConfig("mounting", image, "true")
	mounting.Mounts = []*runtime.Mount{{HostPath: n.Base + "/no/such/source", ContainerPath: "/mnt"}}
	n.refuse([]refused{
		{"no metadata", create(&runtime.ContainerConfig{Image: &runtime.ImageSpec{Image: image}}), codes.InvalidArgument, "config.metadata"},
		{"a missing image", create(containerConfig("x", "podwright.test/absent:1", "true")), codes.NotFound, "podwright.test/absent:1"},
		{"a missing mount source", create(mounting), codes.InvalidArgument, n.Base + "/no/such/source"},
		{"an image that its registry does not have", func(ctx context.Context) error {
			_, err := imgs.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "podwright.test/absent:1"}})
			return err
		}, codes.NotFound, "absent"},
		{"an image whose layer has another digest", func(ctx context.Context) error {
			_, err := imgs.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "podwright.test/corrupt:latest"}})
			return err
		}, codes.FailedPrecondition, "unexpected commit digest"},
	})
	if got := n.crictl("ps", "-a", "-q"); got != "" {
		t.Errorf("containers: %q", got)
	}
	if got := n.crictl("images", "-q", "podwright.test/corrupt:latest"); got != "" {
		t.Errorf("a corrupt image is listed: %s", got)
	}

	id, err := cri.CreateContainer(t.Context(), &runtime.CreateContainerRequest{
		PodSandboxId: p, Config: containerConfig("nocommand", image, "/no/such/command"), SandboxConfig: podConfig("refused"),
	})
	n.must(err)
	n.refuse([]refused{{"a missing command", func(ctx context.Context) error {
		_, err := cri.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id.GetContainerId()})
		return err
	}, codes.FailedPrecondition, "/no/such/command"}})
	if c := n.container(id.GetContainerId()); c.Status.State != "CONTAINER_EXITED" || c.Status.ExitCode != 128 || c.Status.Reason != "StartError" {
		t.Errorf("after a start that failed: %+v", c.Status)
	}
}

// TestRefusedConfiguration: an unknown key is named, and the program ends with the code for it.
func TestRefusedConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("rooot = \"/x\"\n[cni]\nbindirs = []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"config", "check", file}, {"serve", "--config", file}} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(programs.Bin, "cri-shim"), args...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "rooot") || !strings.Contains(string(out), "bindirs") {
			t.Errorf("%v: got %v: %s", args, err, out)
		}
	}
}

// plugin runs bridge-ipam on one input and returns its exit code and the error object that it printed.
func plugin(t *testing.T, stdin string, env ...string) (code int, answer struct {
	Code uint   `json:"code"`
	Msg  string `json:"msg"`
}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(programs.Bin, "bridge-ipam"))
	cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
	out, _ := cmd.Output() // the exit code is looked at below
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatalf("stdout of %v is not one JSON value: %v: %.300s", env, err, out)
	}
	return cmd.ProcessState.ExitCode(), answer
}

// TestRefusedByThePlugin: bad input ends with the specification's code and the name of what is wrong.
func TestRefusedByThePlugin(t *testing.T) {
	n := prepareNode(t) // counts what is left at the end
	ns := n.netns("refused")
	config := func(ranges string) string {
		return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "refused", "type": "bridge-ipam", "bridge": "%s", "isGateway": true,
 "ipam": {"ranges": [[%s]], "dataDir": "%s/leases"}}`, n.Bridge, ranges, n.Base)
	}
	good := config(`{"subnet": "` + n.Subnet + `.0/24"}`)
	env := func(more ...string) []string {
		return append([]string{
			"CNI_COMMAND=ADD", "CNI_CONTAINERID=refused", "CNI_IFNAME=eth0", "CNI_NETNS=" + ns, "CNI_PATH=" + programs.Bin,
		}, more...)
	}
	notANamespace, err := n.File("file", "no namespace")
	n.must(err)
	for _, c := range []struct {
		name, stdin string
		env         []string
		code        uint
		text        string
	}{
		{"empty", "", env(), 6, "empty"},
		{"truncated", good[:len(good)/2], env(), 6, "ends in the middle"},
		{"10 MiB", `{"name": "` + strings.Repeat("x", 10<<20) + `"}`, env(), 5, "larger than"},
		{"nested", strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000), env(), 6, "max depth"},
		{"no variables", good, []string{"CNI_COMMAND=ADD"}, 4, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"},
		{"unknown command", good, env("CNI_COMMAND=EXPLODE"), 4, "EXPLODE"},
		{"container id with a path", good, env("CNI_CONTAINERID=../../etc"), 4, "CNI_CONTAINERID"},
		{"interface with a path", good, env("CNI_IFNAME=../eth0"), 4, "CNI_IFNAME"},
		{"interface that is too long", good, env("CNI_IFNAME=abcdefghijklmnop"), 4, "CNI_IFNAME"},
		{"no namespace", good, env("CNI_NETNS=" + n.Base + "/absent"), 4, "CNI_NETNS"},
		{"a file that is no namespace", good, env("CNI_NETNS=" + notANamespace), 4, "CNI_NETNS"},
		{"a range outside its subnet", config(`{"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.9"}`), env(), 7, "rangeStart"},
		{"no subnet", config(`{"subnet": "10.1.2.3.4/24"}`), env(), 7, "subnet"},
	} {
		if exit, got := plugin(t, c.stdin, c.env...); exit == 0 || got.Code != c.code || !strings.Contains(got.Msg, c.text) {
			t.Errorf("%s: exit code %d, %+v; want code %d with %q", c.name, exit, got, c.code, c.text)
		}
	}
	n.exhaust(config(`{"subnet": "`+n.Subnet+`.0/24", "rangeStart": "`+n.Subnet+`.10", "rangeEnd": "`+n.Subnet+`.11"}`), env)
}

// exhaust takes both addresses of a range; the third attachment is refused, and after a DEL it is not.
func (n *tester) exhaust(config string, env func(...string) []string) {
	n.t.Helper()
	id := func(i int) string { return fmt.Sprintf("CNI_CONTAINERID=exhaust%d", i) }
	inNS := func(i int) string { return "CNI_NETNS=" + n.netns(fmt.Sprintf("exhaust%d", i)) }
	last := inNS(2)
	for i := range 2 {
		if exit, got := plugin(n.t, config, env(id(i), inNS(i))...); exit != 0 {
			n.t.Fatalf("ADD %d: %+v", i, got)
		}
	}
	if exit, got := plugin(n.t, config, env(id(2), last)...); exit == 0 || !strings.Contains(got.Msg, "no free address") {
		n.t.Errorf("an exhausted range: exit code %d, %+v", exit, got)
	}
	del := func(i int) {
		cmd := exec.CommandContext(n.t.Context(), filepath.Join(programs.Bin, "bridge-ipam"))
		cmd.Env, cmd.Stdin = env("CNI_COMMAND=DEL", id(i)), strings.NewReader(config)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			n.t.Errorf("DEL %d: %v: %s", i, err, out)
		}
	}
	del(0)
	if exit, got := plugin(n.t, config, env(id(2), last)...); exit != 0 {
		n.t.Errorf("ADD after a DEL: %+v", got)
	}
	del(1)
	del(2)
}

// netns makes a network namespace that is pinned in the node's directory and returns its path.
func (n *tester) netns(name string) string {
	n.t.Helper()
	path, err := n.File("netns-"+name, "")
	n.must(err)
	if out, err := exec.Command("unshare", "--net="+path, "true").CombinedOutput(); err != nil {
		n.t.Fatalf("unshare: %v: %s", err, out)
	}
	n.t.Cleanup(func() {
		if out, err := exec.Command("umount", path).CombinedOutput(); err != nil {
			n.t.Errorf("umount: %v: %s", err, out)
		}
	})
	return path
}
