package crishim

import "testing"

func TestRuntimeFeatures(t *testing.T) {
	const linux = `"linux": {"namespaces": ["cgroup", "user"], "mountExtensions": {"idmap": {"enabled": true}}}`
	for name, c := range map[string]struct {
		out  string
		want runtimeFeatures
	}{
		"runc 1.5":      {`{"mountOptions": ["bind", "rro"], ` + linux + `}`, runtimeFeatures{recursiveReadOnly: true, idMap: true}},
		"runc 1.1":      {`{"mountOptions": ["bind", "rro"], "linux": {"namespaces": ["user"]}}`, runtimeFeatures{recursiveReadOnly: true}},
		"no extensions": {`{"linux": {"mountExtensions": {"idmap": {}}}}`, runtimeFeatures{}},
		"no namespaces": {`{"linux": {"mountExtensions": {"idmap": {"enabled": true}}}}`, runtimeFeatures{}},
		"another text":  {`unknown command features`, runtimeFeatures{}},
	} {
		if got := readFeatures([]byte(c.out)); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := askRuntime(t.Context(), "/bin/false"); got != (runtimeFeatures{}) {
		t.Errorf("a runtime without the command: %+v", got)
	}
}
