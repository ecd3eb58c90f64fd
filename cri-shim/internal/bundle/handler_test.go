package bundle

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestHandlerAnnotations: what no pattern names stays outside, whatever it would have the OCI runtime do.
func TestHandlerAnnotations(t *testing.T) {
	for name, c := range map[string]struct {
		pod, container []string
		want           map[string]string
	}{
		"none":               {nil, nil, nil},
		"of no pattern":      {[]string{"run", "oci.*"}, []string{"handler"}, nil},
		"a key":              {[]string{"run.oci.handler"}, nil, map[string]string{"run.oci.handler": "pod"}},
		"a pattern":          {[]string{"run.oci.*"}, nil, map[string]string{"run.oci.handler": "pod", "run.oci.hooks": "pod"}},
		"the container's":    {nil, []string{"run.oci.*"}, map[string]string{"run.oci.handler": "container"}},
		"the container wins": {[]string{"run.oci.*"}, []string{"run.oci.*"}, map[string]string{"run.oci.handler": "container", "run.oci.hooks": "pod"}},
		"no slash in *":      {[]string{"*"}, nil, map[string]string{"run.oci.handler": "pod", "run.oci.hooks": "pod"}},
		"beyond a slash":     {[]string{"module.wasm.image/*"}, nil, map[string]string{"module.wasm.image/variant": "compat"}},
	} {
		s := spec(t, func(in *Input) {
			in.Sandbox.Config.Annotations = map[string]string{"run.oci.handler": "pod", "run.oci.hooks": "pod", "module.wasm.image/variant": "compat"}
			in.Container.Config.Annotations = map[string]string{"run.oci.handler": "container"}
			in.Handler = Handler{PodAnnotations: c.pod, ContainerAnnotations: c.container}
		})
		if !maps.Equal(s.Annotations, c.want) {
			t.Errorf("%s: %v, want %v", name, s.Annotations, c.want)
		}
	}
}

func TestHandlerDevices(t *testing.T) {
	major, minor := int64(1), int64(11)
	asked := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "r"}
	all, none := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}, specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"}
	for name, c := range map[string]struct {
		privileged bool
		h          Handler
		want       []specs.LinuxDeviceCgroup
	}{
		"plain":                       {false, Handler{}, []specs.LinuxDeviceCgroup{none, asked}},
		"plain, whatever the handler": {false, Handler{NoHostDevices: true, AllDevices: true}, []specs.LinuxDeviceCgroup{none, asked}},
		"privileged":                  {true, Handler{}, []specs.LinuxDeviceCgroup{all}},
		"privileged without":          {true, Handler{NoHostDevices: true}, []specs.LinuxDeviceCgroup{none, asked}},
		"privileged, any it makes":    {true, Handler{NoHostDevices: true, AllDevices: true}, []specs.LinuxDeviceCgroup{all}},
	} {
		s := spec(t, func(in *Input) {
			in.Sandbox.Config.Privileged, in.Container.Config.Privileged = c.privileged, c.privileged
			in.Rules, in.Handler = []specs.LinuxDeviceCgroup{asked}, c.h
		})
		if !reflect.DeepEqual(s.Linux.Resources.Devices, c.want) {
			t.Errorf("%s: %+v", name, s.Linux.Resources.Devices)
		}
	}
}

// TestHandlerCgroups: with cgroup v1 who can write to one can have the host run programs (CVE-2022-0492).
func TestHandlerCgroups(t *testing.T) {
	for _, c := range []struct{ asked, v2, writable bool }{{true, true, true}, {true, false, false}, {false, true, false}} {
		s := spec(t, func(in *Input) { in.Handler.WritableCgroup, in.Facts.CgroupV2 = c.asked, c.v2 })
		if got := slices.Contains(find(t, s, "/sys/fs/cgroup").Options, "rw"); got != c.writable {
			t.Errorf("%+v: writable: %t", c, got)
		}
		if !slices.Contains(find(t, s, "/sys").Options, "ro") {
			t.Errorf("%+v: /sys is writable", c)
		}
	}
}
