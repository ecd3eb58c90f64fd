package e2e

import (
	"encoding/json"
	"maps"
	"os/exec"
	"strings"
	"testing"
)

// TestHandlerOptions: what the node's owner has set for a runtime handler holds for the containers of its pods, and for no others.
func TestHandlerOptions(t *testing.T) {
	n := prepareNode(t)
	runc, err := exec.LookPath("runc")
	n.must(err)
	const without = "\nprivileged_without_host_devices = true\n"
	for name, options := range map[string]string{
		"few": without, "any": without + "privileged_without_host_devices_all_devices_allowed = true\n",
		"told": "\npod_annotations = [\"run.oci.*\"]\ncontainer_annotations = [\"example.com/*\"]\n",
	} {
		n.configure("[runtimes." + name + "]\npath = \"" + runc + "\"" + options)
	}
	n.must(n.Start())
	n.crictl("pull", image)

	const privileged = `"privileged": true, "namespace_options"`
	run := func(handler string) string {
		config := strings.NewReplacer(`"namespace_options"`, privileged, `"labels"`,
			`"annotations": {"run.oci.test": "pod", "example.com/pod": "pod"}, "labels"`).Replace(n.PodJSON("h"+handler, false))
		file, err := n.File("pod-h"+handler+".json", config)
		n.must(err)
		return n.run(n.crictl("runp", "--runtime", handler, file), "h"+handler, "main", "exec sleep 1000",
			`"linux": {"security_context": {"privileged": true, "namespace_options": {"pid": 1}}}, "devices": [{"host_path": "/dev/urandom", "container_path": "/dev/asked", "permissions": "r"}],
 "annotations": {"run.oci.test": "container", "example.com/container": "container"}`)
	}
	// 1:11 is /dev/kmsg, which no container may open by default.
	const look = "[ -e /dev/kmsg ] && echo hosts; [ $(head -c 1 /dev/asked | wc -c) = 1 ] && echo asked; mknod /made c 1 11; (: < /made) 2>/dev/null && echo made"
	for handler, want := range map[string]struct {
		devices     string
		annotations map[string]string
	}{
		"":     {"hosts asked made", nil},
		"few":  {"asked", nil},
		"any":  {"asked made", nil},
		"told": {"hosts asked made", map[string]string{"run.oci.test": "pod", "example.com/container": "container"}},
	} {
		id := run(handler)
		if got := strings.Join(strings.Fields(n.exec(id, "sh", "-c", look+"; true")), " "); got != want.devices {
			t.Errorf("%q: devices: %s, want %s", handler, got, want.devices)
		}
		var inspect struct {
			Info struct {
				RuntimeSpec struct{ Annotations map[string]string }
			}
		}
		n.must(json.Unmarshal([]byte(n.crictl("inspect", id)), &inspect))
		if told := inspect.Info.RuntimeSpec.Annotations; !maps.Equal(told, want.annotations) {
			t.Errorf("%q: the OCI runtime is told %v, want %v", handler, told, want.annotations)
		}
	}
}
