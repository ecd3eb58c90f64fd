package conf

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/coreos/go-systemd/v22/unit"
)

// options reads a unit into "Section.Name" → values.
func options(t *testing.T, file string) map[string][]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parsed, err := unit.DeserializeOptions(f)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	out := map[string][]string{}
	for _, o := range parsed {
		key := o.Section + "." + o.Name
		out[key] = append(out[key], o.Value)
	}
	return out
}

func TestUnits(t *testing.T) {
	for file, want := range map[string]map[string]string{
		"systemd/cri-shim.service": {
			"Service.Type": "notify", "Service.KillMode": "process", "Service.Delegate": "yes", "Service.ExecStart": "/usr/local/bin/cri-shim serve",
		},
		"systemd/cri-monitor.service": {"Service.KillMode": "process", "Service.Delegate": "yes"},
	} {
		got := options(t, file)
		for key, value := range want {
			if len(got[key]) != 1 || got[key][0] != value {
				t.Errorf("%s: %s = %q, want %q", file, key, got[key], value)
			}
		}
		if len(got["Install.WantedBy"]) == 0 || len(got["Unit.Description"]) == 0 {
			t.Errorf("%s: cannot be enabled, or says not what it is", file)
		}
	}
}

// crictl.yaml is a flat list of keys; crictl refuses one that it does not know.
func TestCrictl(t *testing.T) {
	b, err := os.ReadFile("crictl.yaml")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{
		"runtime-endpoint": true, "image-endpoint": true, "timeout": true, "debug": true, "pull-image-on-create": true, "disable-pull-on-run": true,
	}
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, ": ")
		if !ok || !known[key] || value == "" {
			t.Errorf("line %q", line)
		}
		if strings.HasSuffix(key, "-endpoint") && value != "unix:///run/cri-shim/cri-shim.sock" {
			t.Errorf("%s is not the default socket: %s", key, value)
		}
	}
}

// The kubelet itself reads its sample in test/kubelet, strictly. Here: a name that it does not pass over, and our socket.
func TestKubelet(t *testing.T) {
	files, err := filepath.Glob("kubelet/*.conf")
	if err != nil || len(files) != 1 {
		t.Fatalf("samples: %v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, ": ")
		if _, twice := values[key]; !ok || twice || value == "" {
			t.Errorf("line %q", line)
		}
		values[key] = value
	}
	for key, want := range map[string]string{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix:///run/cri-shim/cri-shim.sock",
	} {
		if values[key] != want {
			t.Errorf("%s is %q, want %q", key, values[key], want)
		}
	}
}

// The template gives a configuration for one and for two ranges.
func TestPodRanges(t *testing.T) {
	parsed, err := template.ParseFiles("cni/pod-ranges.template")
	if err != nil {
		t.Fatal(err)
	}
	for _, ranges := range [][]string{{"10.1.0.0/24"}, {"10.1.0.0/24", "fd00:1::/64"}} {
		var out bytes.Buffer
		routes := []string{"0.0.0.0/0", "::/0"}[:len(ranges)]
		if err := parsed.Execute(&out, map[string]any{"PodCIDR": ranges[0], "PodCIDRRanges": ranges, "Routes": routes}); err != nil {
			t.Fatal(err)
		}
		var list struct {
			Plugins []struct {
				IPAM struct {
					Ranges [][]struct{ Subnet string }
					Routes []struct{ Dst string }
				}
			}
		}
		if err := json.Unmarshal(out.Bytes(), &list); err != nil || len(list.Plugins) != 1 {
			t.Fatalf("%v: %s", err, &out)
		}
		ipam := list.Plugins[0].IPAM
		if len(ipam.Ranges) != len(ranges) || len(ipam.Routes) != len(ranges) {
			t.Fatalf("%v gives %+v", ranges, ipam)
		}
		for i, r := range ranges {
			if ipam.Ranges[i][0].Subnet != r || ipam.Routes[i].Dst != routes[i] {
				t.Errorf("%v gives %+v", ranges, ipam)
			}
		}
	}
}

// What is named in the recipe for kind is there, and its parts agree.
func TestKind(t *testing.T) {
	recipe, err := os.ReadFile("kind/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(recipe)) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "COPY" {
			continue
		}
		for _, source := range words[1 : len(words)-1] {
			if strings.HasPrefix(source, "bin/") {
				source = "cmd/" + strings.TrimPrefix(source, "bin/") // what it is built from
			}
			if _, err := os.Stat("../" + source); err != nil {
				t.Error(err)
			}
		}
	}
	settings, err := os.ReadFile("kind/cri-shim.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/etc/cri-shim/", "pod-ranges.template"} {
		if !strings.Contains(string(recipe), path) || !strings.Contains(string(settings), path) {
			t.Errorf("%q is not in both files", path)
		}
	}
}
