package conf

import (
	"os"
	"strings"
	"testing"

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
