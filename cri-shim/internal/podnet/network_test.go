package podnet

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

func TestAttachAndDetach(t *testing.T) {
	w := newWorld(t)
	a := w.attachment("aa")
	a.Ports = []pod.PortMapping{{Protocol: "tcp", ContainerPort: 80, HostPort: 8080, HostIP: "127.0.0.1"}, {Protocol: "tcp", ContainerPort: 81}}
	a.DNS = &pod.DNS{Servers: []string{"1.1.1.1"}}
	a.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M"}
	a.CgroupParent = "/not/declared"
	res, err := w.Attach(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Addr{netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00::5")}
	if !slices.Equal(res.IPs, want) {
		t.Errorf("got %v, want %v: only those of eth0, IPv4 first", res.IPs, want)
	}
	if !strings.Contains(w.log.String(), "a note for people") {
		t.Error("the plugin's stderr is lost")
	}
	add := w.calls(t)
	if len(add) != 1 || add[0].Command != "ADD" || add[0].ID != "aa" || add[0].IfName != "eth0" || add[0].NetNS != w.dir {
		t.Fatalf("got %+v", add)
	}
	if add[0].Args != "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=aa;K8S_POD_UID=u1" {
		t.Errorf("CNI_ARGS %s", add[0].Args)
	}
	wantArgs := map[string]any{
		"portMappings":                      []any{map[string]any{"hostPort": 8080., "containerPort": 80., "protocol": "tcp", "hostIP": "127.0.0.1"}},
		"dns":                               map[string]any{"servers": []any{"1.1.1.1"}},
		"bandwidth":                         map[string]any{"ingressRate": 1e7, "ingressBurst": 2147483647.},
		"io.kubernetes.cri.pod-annotations": map[string]any{"kubernetes.io/ingress-bandwidth": "10M"},
	}
	if diff := cmp.Diff(wantArgs, add[0].Conf["runtimeConfig"]); diff != "" {
		t.Errorf("runtimeConfig -want +got:\n%s", diff)
	}

	if err := w.Detach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	del := w.calls(t)
	if len(del) != 1 || del[0].Command != "DEL" || del[0].NetNS != w.dir || del[0].Conf["prevResult"] == nil {
		t.Fatalf("got %+v", del)
	}
	if args := del[0].Conf["runtimeConfig"].(map[string]any); args["io.podwright.netns-destroyed"] != true {
		t.Errorf("DEL does not know that the namespace goes: %v", args)
	}
	w.mustBeEmpty(t)
}

// mustBeEmpty checks that nothing of an attachment is kept.
func (w *world) mustBeEmpty(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"cni/attached", "cni/results", "users"} {
		if entries, err := os.ReadDir(filepath.Join(w.dir, dir)); err == nil && len(entries) > 0 {
			t.Errorf("%s still holds %v", dir, entries)
		}
	}
}

func TestDetachAfterTheConfigurationChanged(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *world){
		"vanished": func(t *testing.T, w *world) { w.remove(t, "conf/10-net.conflist") },
		"broken":   func(t *testing.T, w *world) { w.write(t, "conf/10-net.conflist", "{") },
		"another":  func(t *testing.T, w *world) { w.configure(t, "00-other.conflist", "other") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := w.Attach(t.Context(), w.attachment("aa")); err != nil {
				t.Fatal(err)
			}
			change(t, w)
			a := w.attachment("aa")
			a.NetNS = ""
			if err := w.Detach(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if got := w.commands(t); got != "ADD aa net1; DEL aa net1" {
				t.Errorf("got %s", got)
			}
			w.mustBeEmpty(t)
		})
	}
}

func TestDetachWithoutTheCachedResult(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Attach(t.Context(), w.attachment("aa")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(w.CacheDir, "results")); err != nil {
		t.Fatal(err)
	}
	a := w.attachment("aa")
	a.NetNS = filepath.Join(w.dir, "gone")
	if err := w.Detach(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if del := w.calls(t)[1]; del.Command != "DEL" || del.NetNS != "" || del.Conf["prevResult"] != nil {
		t.Errorf("got %+v", del)
	}
}

func TestFailedAddIsGivenBackWithItsOwnConfiguration(t *testing.T) {
	w := newWorld(t)
	w.write(t, "fail-ADD", `{"cniVersion":"1.1.0","code":102,"msg":"no address left"}`)
	_, err := w.Attach(t.Context(), w.attachment("aa"))
	if err == nil || !strings.HasPrefix(err.Error(), "CNI ADD net1: ") || !strings.Contains(err.Error(), "no address left") || errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	w.configure(t, "00-other.conflist", "other")
	w.write(t, "fail-DEL", `{"code":11,"msg":"busy"}`)
	if err := w.Detach(t.Context(), w.attachment("aa")); !errdefs.IsUnavailable(err) || !strings.HasPrefix(err.Error(), "CNI DEL net1: ") {
		t.Errorf("got %v", err)
	}
	w.remove(t, "fail-DEL")
	if err := w.Detach(t.Context(), w.attachment("aa")); err != nil {
		t.Error(err)
	}
	if got := w.commands(t); got != "ADD aa net1; DEL aa net1; DEL aa net1" {
		t.Errorf("got %s", got)
	}
	w.mustBeEmpty(t)
}

// TestDetachOnABrokenDisk: the kernel makes a file system that it finds damaged read-only. Pods can be ended all the same,
// and GC gives back what was not forgotten once more after the repair.
func TestDetachOnABrokenDisk(t *testing.T) {
	nettest.RequireRoot(t)
	w := newWorld(t)
	if _, err := w.Attach(t.Context(), w.attachment("a")); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(w.dir, "cni")
	err := errors.Join(
		unix.Mount(disk, disk, "", unix.MS_BIND, ""),
		unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	repair := sync.OnceValue(func() error { return unix.Unmount(disk, 0) })
	t.Cleanup(func() { _ = repair() })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Detach(t.Context(), w.attachment("a")); err != nil {
			t.Errorf("Detach: %v", err)
		}
	}
	if _, err := w.Attach(t.Context(), w.attachment("b")); !errors.Is(err, unix.EROFS) {
		t.Errorf("Attach: %v", err)
	}
	if got := w.commands(t); got != "ADD a net1; DEL a net1; DEL a net1" {
		t.Errorf("the plugin was asked %s", got)
	}
	if err := errors.Join(repair(), w.GC(t.Context(), func() []pod.Attachment { return nil })); err != nil {
		t.Fatal(err)
	}
	if ids, err := w.attached(); err != nil || len(ids) != 0 {
		t.Errorf("kept: %v, %v", ids, err)
	}
}

func TestRepeatedCalls(t *testing.T) {
	w := newWorld(t)
	for range 2 {
		if _, err := w.Attach(t.Context(), w.attachment("aa")); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := w.Detach(t.Context(), w.attachment("aa")); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.commands(t); got != "ADD aa net1; DEL aa net1; ADD aa net1; DEL aa net1; DEL aa net1" {
		t.Errorf("got %s", got)
	}
}

func TestDetachOfTheUnknownNeverStandsInTheWay(t *testing.T) {
	w := newWorld(t)
	w.write(t, "fail-DEL", `{"code":999,"msg":"odd"}`)
	if err := w.Detach(t.Context(), w.attachment("aa")); err != nil {
		t.Error(err)
	}
	w.remove(t, "conf/10-net.conflist")
	if err := w.Detach(t.Context(), w.attachment("aa")); err != nil {
		t.Error(err)
	}
	w.write(t, "cni/attached/aa.conflist", "torn")
	if err := w.Detach(t.Context(), w.attachment("aa")); err != nil {
		t.Error(err)
	}
	w.mustBeEmpty(t)
}

func TestDeadlineEndsThePlugin(t *testing.T) {
	w := newWorld(t)
	w.write(t, "slow-ADD", "")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := w.Attach(ctx, w.attachment("aa")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAttachRefuses(t *testing.T) {
	w := newWorld(t)
	a := w.attachment("aa")
	a.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": "fast"}
	if _, err := w.Attach(t.Context(), a); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "egress-bandwidth") {
		t.Errorf("got %v", err)
	}
	if err := w.Detach(t.Context(), a); err != nil {
		t.Errorf("what ADD refused DEL must not: %v", err)
	}
	w.remove(t, "bin/testnet")
	if _, err := w.Attach(t.Context(), w.attachment("bb")); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), `"testnet"`) {
		t.Errorf("got %v", err)
	}
	w.remove(t, "conf/10-net.conflist")
	if _, err := w.Attach(t.Context(), w.attachment("bb")); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), w.ConfDir) {
		t.Errorf("got %v", err)
	}
	w.mustBeEmpty(t)
}

func TestResultWithoutAddress(t *testing.T) {
	w := newWorld(t)
	w.write(t, "conf/10-net.conflist", strings.Replace(w.list("net1", ""), `"eth0"`, `"eth1"`, 1))
	_, err := w.Attach(t.Context(), w.attachment("aa"))
	if err == nil || !strings.Contains(err.Error(), "no address for eth0") {
		t.Errorf("got %v", err)
	}
}

// TestResultWithNull: what a plugin has forgotten to fill in ends one ADD, and not the runtime.
func TestResultWithNull(t *testing.T) {
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		for _, null := range []string{
			`"ips":[null]`, `"interfaces":[null],"ips":[{"version":"4","address":"10.1.0.5/24","interface":0}]`,
		} {
			w := newWorld(t)
			list := strings.Replace(w.list("net1", ""), answer, `{"cniVersion":"`+version+`",`+null+`}`, 1)
			w.write(t, "conf/10-net.conflist", strings.Replace(list, `"1.1.0","name"`, `"`+version+`","name"`, 1))
			if _, err := w.Attach(t.Context(), w.attachment("aa")); err == nil || !strings.Contains(err.Error(), "null") {
				t.Errorf("%s %s: got %v", version, null, err)
			}
		}
	}
}

func TestPreferV6(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.PreferV6 = true })
	res, err := w.Attach(t.Context(), w.attachment("aa"))
	if err != nil || res.IPs[0] != netip.MustParseAddr("fd00::5") {
		t.Errorf("got %v, %v", res, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			a := w.attachment("id" + string(rune('a'+i)))
			if _, err := w.Attach(t.Context(), a); err != nil {
				t.Error(err)
			}
			if err := w.Detach(t.Context(), a); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.mustBeEmpty(t)
}
