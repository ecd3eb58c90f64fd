package crishim

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podwright/podwright/conf"
	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
)

func TestSampleIsTheDefault(t *testing.T) {
	c, err := Parse([]byte(conf.CRIShim))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c); diff != "" {
		t.Errorf("conf/cri-shim.toml differs from Default() (-want +got):\n%s", diff)
	}
	for _, key := range keys(reflect.TypeFor[Config](), "") {
		if !strings.Contains(conf.CRIShim, key) {
			t.Errorf("conf/cri-shim.toml does not show the key %q", key)
		}
	}
}

func TestSampleOfKind(t *testing.T) {
	if c, _, err := Load("../conf/kind/cri-shim.toml"); err != nil || c.CNI.ConfTemplate == "" {
		t.Errorf("template %q, %v", c.CNI.ConfTemplate, err)
	}
}

func keys(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("toml")
		if f.Type.Kind() == reflect.Struct {
			out = append(append(out, "["+prefix+key+"]"), keys(f.Type, key+".")...)
			continue
		}
		if f.Type.Kind() == reflect.Map {
			out = append(out, "["+key+".")
			continue
		}
		out = append(out, "\n"+key+" = ")
	}
	return out
}

func TestParse(t *testing.T) {
	c, err := Parse([]byte(`
root = "/a"
listen = "unix:///a/s.sock"
[runtimes.crun]
path = "/usr/bin/crun"
[image]
progress_timeout = "90s"
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != "/a" || c.Socket() != "/a/s.sock" || c.Runtimes["crun"].Path != "/usr/bin/crun" {
		t.Errorf("got %+v", c)
	}
	if time.Duration(c.Image.ProgressTimeout) != 90*time.Second {
		t.Errorf("progress_timeout = %v", c.Image.ProgressTimeout)
	}
	if c.State != Default().State || Default().Socket() != "/run/cri-shim/cri-shim.sock" {
		t.Errorf("defaults: %+v", c)
	}
}

// TestHandlerKeysAreShown: all that can be set for a handler stands in the sample, as a comment.
func TestHandlerKeysAreShown(t *testing.T) {
	for _, key := range keys(reflect.TypeFor[Runtime](), "") {
		if key = strings.TrimPrefix(key, "\n"); !strings.Contains(conf.CRIShim, "\n#   "+key) {
			t.Errorf("conf/cri-shim.toml does not show the key %q", key)
		}
	}
}

// TestWritableCgroups: only where they cannot become the host's.
func TestWritableCgroups(t *testing.T) {
	runtimes := map[string]Runtime{"x": {Path: "/x", CgroupWritable: true}}
	for _, v2 := range []bool{true, false} {
		handlers, err := handlersOf(runtimes, hostinfo.Facts{CgroupV2: v2})
		if v2 && (err != nil || !handlers["x"].WritableCgroup) || !v2 && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "runtimes.x.cgroup_writable")) {
			t.Errorf("v2 %t: %+v, %v", v2, handlers, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, toml, want string }{
		{"unknown key", "root = \"/a\"\nroute = \"/b\"\n", "route"},
		{"unknown key's line", "\n\n[cni]\nfoo = 1\n", "4|"},
		{"unknown table", "[plugins]\na = 1\n", "plugins"},
		{"wrong type", "root = 5\n", "line 1"},
		{"syntax", "root = \n", "line 1"},
		{"duplicate", "root = \"/a\"\nroot = \"/b\"\n", "root"},
		{"duration", "[image]\nprogress_timeout = \"5 minutes\"\n", "duration"},
		{"relative", "root = \"a\"\n", `root = "a": want an absolute path`},
		{"same", "root = \"/a\"\nstate = \"/a/\"\n", "another directory"},
		{"tcp", "listen = \"tcp://1.2.3.4:5\"\n", "listen"},
		{"long state", "listen = \"/run/cri.sock\"\nstate = \"/" + strings.Repeat("a", 81) + "\"\n", "state"},
		{"long socket", "listen = \"/" + strings.Repeat("a", 107) + "\"\n", "107"},
		{"driver", "cgroup_driver = \"v2\"\n", "auto, cgroupfs, systemd"},
		{"level", "[log]\nlevel = \"loud\"\n", "log.level"},
		{"handler", "[runtimes.\"../x\"]\npath = \"/x\"\n", "handler"},
		{"no path", "[runtimes.x]\n", "runtimes.x.path"},
		{"any device of none", "[runtimes.x]\npath = \"/x\"\nprivileged_without_host_devices_all_devices_allowed = true\n", "together with privileged_without_host_devices"},
		{"annotation pattern", "[runtimes.x]\npath = \"/x\"\npod_annotations = [\"a.[\"]\n", `runtimes.x.pod_annotations = "a.[": want keys`},
		{"annotation of no name", "[runtimes.x]\npath = \"/x\"\ncontainer_annotations = [\"\"]\n", "runtimes.x.container_annotations"},
		{"relative runtime", "runtime = \"bin/runc\"\n", "runtime"},
		{"downloads", "[image]\nmax_parallel_downloads = 0\n", "1 to 64"},
		{"relative verifiers", "[image]\nverifier_dir = \"v\"\n", "image.verifier_dir"},
		{"no time to verify", "[image]\nverifier_timeout = \"0s\"\n", `image.verifier_timeout = "0s": want 1s to 1h`},
		{"pinned without a registry", "[image]\npinned = [\"busybox:*\"]\n", "docker.io/library/busybox:*"},
		{"no bin dirs", "[cni]\nbin_dirs = []\n", "bin_dirs"},
		{"streaming host", "[streaming]\naddress = \"localhost\"\n", "IP address"},
		{"streaming anywhere", "[streaming]\naddress = \"0.0.0.0\"\n", "IP address"},
		{"streaming in the open", "[streaming]\naddress = \"192.0.2.1\"\n", "streaming.tls_cert"},
		{"streaming port", "[streaming]\nport = 65536\n", "0 (any) to 65535"},
		{"half of TLS", "[streaming]\ntls_cert = \"/c\"\n", "streaming.tls_key"},
		{"relative certificate", "[streaming]\ntls_cert = \"c\"\ntls_key = \"/k\"\n", "streaming.tls_cert"},
		{"idle", "[streaming]\nidle_timeout = \"0s\"\n", "1s or more"},
		{"NRI socket", "[nri]\nsocket_path = \"nri.sock\"\n", "nri.socket_path"},
		{"NRI request", "[nri]\nplugin_request_timeout = \"2m\"\n", "nri.plugin_request_timeout = \"2m0s\": want 10ms to 1m"},
		{"NRI validator", "[nri.default_validator]\nreject_all = true\n", "reject_all"},
		{"stats too often", "[stats]\ninterval = \"100ms\"\n", `stats.interval = "100ms": want 1s to 1h`},
		{"stats too seldom", "[stats]\ninterval = \"2h\"\n", "stats.interval"},
		{"check too often", "[cni]\ncheck_interval = \"10ms\"\n", `cni.check_interval = "10ms": want 1s to 24h, or 0s for never`},
		{"check before it was", "[cni]\ncheck_interval = \"-1s\"\n", "cni.check_interval"},
		{"metrics by name", "[metrics]\naddress = \"localhost:1338\"\n", `metrics.address = "localhost:1338": want an IP address and a port`},
		{"metrics on any port", "[metrics]\naddress = \"127.0.0.1:0\"\n", "metrics.address"},
		{"metrics without a port", "[metrics]\naddress = \"127.0.0.1\"\n", "metrics.address"},
		{"metrics beside", "[metrics]\naddress = \"unix://metrics.sock\"\n", "metrics.address"},
		{"metrics too far", "[metrics]\naddress = \"unix:///" + strings.Repeat("a", 107) + "\"\n", "metrics.address"},
		{"ip_pref", "[cni]\nip_pref = \"cni\"\n", "ip_pref"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.toml))
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want InvalidArgument with %q", err, c.want)
			}
		})
	}
}

func TestValidateJoinsAllFaults(t *testing.T) {
	c := Default()
	c.Root, c.Log.Level = "x", "y"
	err := c.Validate()
	if err == nil || !strings.Contains(err.Error(), "root") || !strings.Contains(err.Error(), "log.level") {
		t.Errorf("got %v", err)
	}
}

func TestLoad(t *testing.T) {
	if _, _, err := Load(filepath.Join(t.TempDir(), "none.toml")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a missing named file: %v", err)
	}
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte("nope = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error must name the file: %v", err)
	}
}

// TestLoadReadsOver: what lies beside the file is read over it in the order of the names, and whoever is at fault is named.
func TestLoadReadsOver(t *testing.T) {
	dir := t.TempDir() + "/with [odd] name"
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("c.toml", `
cdi_spec_dirs = ["/a", "/b"]
[log]
level = "warn"
[runtimes.x]
path = "/x"
pod_annotations = ["a", "b"]
`)
	second := write("c.d/20-second.toml", "[log]\nlevel = \"debug\"\n[runtimes.y]\npath = \"/y\"\n")
	first := write("c.d/10-first.toml", "cdi_spec_dirs = [\"/c\"]\n[log]\nlevel = \"error\"\nformat = \"json\"\n[runtimes.x]\npod_annotations = [\"c\"]\n")
	write("c.d/30-none.conf", "nonsense")
	write("c.d/.30-hidden.toml", "nonsense")
	want := Default()
	want.CDISpecDirs = []string{"/c"}
	want.Log = LogConfig{Level: "debug", Format: "json"}
	want.Runtimes = map[string]Runtime{"x": {Path: "/x", PodAnnotations: []string{"c"}}, "y": {Path: "/y"}}
	got, files, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{file, first, second}, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}

	// What is printed of it is the same again.
	shown, err := execute(t, "config", "show", "--config", file)
	if err != nil || !strings.HasPrefix(shown, "# "+file+"\n# "+first+"\n# "+second+"\n") {
		t.Errorf("got %s, %v", shown, err)
	}
	again, err := Parse([]byte(shown))
	if diff := cmp.Diff(want, again, cmpopts.EquateEmpty()); err != nil || diff != "" {
		t.Errorf("shown and read again (-want +got): %v\n%s", err, diff)
	}
	if out, err := execute(t, "config", "check", file); err != nil || out != file+": ok\n"+first+": ok\n"+second+": ok\n" {
		t.Errorf("got %q, %v", out, err)
	}

	bad := write("c.d/40-bad.toml", "\nrot = 1\n")
	if _, _, err := Load(file); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "rot") {
		t.Errorf("got %v", err)
	}
	if err := os.Mkdir(dir+"/c.d/35-directory.toml", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(file); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "35-directory.toml") {
		t.Errorf("a directory: %v", err)
	}
	other := write("other.toml", "")
	write("other.d", "a file")
	if _, _, err := Load(other); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "other.d") {
		t.Errorf("a directory that is none: %v", err)
	}
	if err := os.Remove(dir + "/c.d/35-directory.toml"); err != nil {
		t.Fatal(err)
	}
	write("c.d/40-bad.toml", "root = \"relative\"\n")
	if _, _, err := Load(file); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), file+" with "+first+" with "+second+" with "+bad) {
		t.Errorf("got %v", err)
	}
}
