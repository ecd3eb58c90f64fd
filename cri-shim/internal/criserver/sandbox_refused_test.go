package criserver

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type config = runtime.PodSandboxConfig

// node shares the network and the IPC namespace with the host.
var node = &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE, Ipc: runtime.NamespaceMode_NODE}

func userns(m runtime.NamespaceMode, maps ...*runtime.IDMapping) *runtime.NamespaceOption {
	return &runtime.NamespaceOption{UsernsOptions: &runtime.UserNamespace{Mode: m, Uids: maps}}
}

// mapped has the same mapping for users and groups, and changes the options.
func mapped(m *runtime.IDMapping, change func(*runtime.NamespaceOption)) func(*runtime.RunPodSandboxRequest, *config) {
	o := userns(runtime.NamespaceMode_POD, m)
	o.UsernsOptions.Gids = o.UsernsOptions.Uids
	if change != nil {
		change(o)
	}
	return func(_ *runtime.RunPodSandboxRequest, c *config) { c.Linux.SecurityContext.NamespaceOptions = o }
}

var goodMap = &runtime.IDMapping{HostId: 65536, Length: 65536}

var refusedSandboxes = []struct {
	name   string
	change func(*runtime.RunPodSandboxRequest, *config)
	want   string
}{
	{"config", func(r *runtime.RunPodSandboxRequest, _ *config) { r.Config = nil }, "config is missing"},
	{"metadata", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata = nil }, "config.metadata is missing"},
	{"name", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata.Name = "" }, "config.metadata.name is missing"},
	{"namespace", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata.Namespace = "" }, "metadata.namespace"},
	{"uid", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata.Uid = "" }, "metadata.uid"},
	{"CNI argument", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata.Name = "a;IP=10.0.0.1" }, `metadata.name "a;IP=10.0.0.1": want`},
	{"uid argument", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata.Uid = "a=b" }, "metadata.uid"},
	{"path in name", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata.Namespace = "../x" }, "metadata.namespace"},
	{"dots", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata.Name = ".." }, "metadata.name"},
	{"newline", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata.Name = "a\nb" }, "metadata.name"},
	{"long name", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Metadata.Name = strings.Repeat("a", 254) }, "253"},
	{"handler", func(r *runtime.RunPodSandboxRequest, _ *config) { r.RuntimeHandler = "kata" }, `runtime_handler "kata": want one of "", "crun"`},
	{"handler path", func(r *runtime.RunPodSandboxRequest, _ *config) { r.RuntimeHandler = "../crun" }, "runtime_handler"},
	{"hostname", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Hostname = strings.Repeat("h", 65) }, "config.hostname"},
	{"hostname newline", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Hostname = "a\n1.2.3.4 b" }, "config.hostname"},
	{"log dir", func(_ *runtime.RunPodSandboxRequest, c *config) { c.LogDirectory = "logs" }, "config.log_directory"},
	{"log dir climbs", func(_ *runtime.RunPodSandboxRequest, c *config) { c.LogDirectory = "/var/log/../../etc" }, "config.log_directory"},
	{"dns", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.DnsConfig = &runtime.DNSConfig{Servers: []string{"1.1.1.1\nnameserver 6.6.6.6"}}
	}, "servers[0]"},
	{"dns search", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.DnsConfig = &runtime.DNSConfig{Searches: []string{"a b"}}
	}, "searches[0]"},
	{"dns option", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.DnsConfig = &runtime.DNSConfig{Options: []string{""}}
	}, "options[0]"},
	{"protocol", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.PortMappings = []*runtime.PortMapping{{Protocol: 9, ContainerPort: 1}}
	}, "port_mappings[0].protocol"},
	{"host port", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.PortMappings = []*runtime.PortMapping{{ContainerPort: 1, HostPort: 65536}}
	}, "host_port"},
	{"container port", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.PortMappings = []*runtime.PortMapping{{HostPort: 80}}
	}, "container_port"},
	{"host ip", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.PortMappings = []*runtime.PortMapping{{ContainerPort: 1, HostIp: "localhost"}}
	}, "host_ip"},
	{"cgroup climbs", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Linux.CgroupParent = "/a/../.." }, "cgroup_parent"},
	{"slice with cgroupfs", func(_ *runtime.RunPodSandboxRequest, c *config) { c.Linux.CgroupParent = "kubepods.slice" }, "cgroupfs, not systemd"},
	{"sysctl injection", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1+kernel.core_pattern=|/bin/sh"}
	}, "sysctls[net.ipv4.ip_forward]"},
	{"sysctl newline", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1\n2"}
	}, "sysctls"},
	{"sysctl path", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.Sysctls = map[string]string{"net/../kernel/core_pattern": "1"}
	}, "sysctls"},
	{"node's sysctl", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.Sysctls = map[string]string{"kernel.core_pattern": "x"}
	}, "namespaced"},
	{"net sysctl on the host", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = node
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
	}, "host's network"},
	{"ipc sysctl on the host", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = node
		c.Linux.Sysctls = map[string]string{"fs.mqueue.msg_max": "1"}
	}, "IPC"},
	{"network", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{Network: runtime.NamespaceMode_CONTAINER}
	}, "namespace_options.network CONTAINER: want POD or NODE"},
	{"ipc", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{Ipc: runtime.NamespaceMode_TARGET}
	}, "namespace_options.ipc"},
	{"pid", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{Pid: runtime.NamespaceMode_TARGET}
	}, "namespace_options.pid"},
	{"unknown pid", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{Pid: 17}
	}, "namespace_options.pid"},
	{"userns container", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = userns(runtime.NamespaceMode_CONTAINER)
	}, "userns_options.mode"},
	{"userns target", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = userns(runtime.NamespaceMode_TARGET)
	}, "userns_options.mode"},
	{"userns node with maps", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = userns(runtime.NamespaceMode_NODE, &runtime.IDMapping{})
	}, "mappings"},
	{"userns without maps", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.NamespaceOptions = userns(runtime.NamespaceMode_POD)
	}, `userns_options "0 uids and 0 gids": want one mapping of each`},
	{"userns with two maps", mapped(goodMap, func(o *runtime.NamespaceOption) {
		o.UsernsOptions.Uids = append(o.UsernsOptions.Uids, goodMap)
	}), `"2 uids and 1 gids"`},
	{"userns without root", mapped(&runtime.IDMapping{ContainerId: 1, HostId: 65536, Length: 9}, nil), "uids[0].container_id 1: want 0"},
	{"userns of the host's root", mapped(&runtime.IDMapping{Length: 9}, nil), "uids[0].host_id 0: want another"},
	{"userns of nobody", mapped(&runtime.IDMapping{HostId: 1}, nil), "want a range of at least one id"},
	{"userns beyond the end", mapped(&runtime.IDMapping{HostId: 1<<32 - 2, Length: 2}, nil), "want a range of at least one id, within 0"},
	{"userns of different lengths", mapped(goodMap, func(o *runtime.NamespaceOption) {
		o.UsernsOptions.Gids = []*runtime.IDMapping{{HostId: 65536, Length: 3}}
	}), "as many of one as of the other"},
	{"userns and host ipc", mapped(goodMap, func(o *runtime.NamespaceOption) { o.Ipc = runtime.NamespaceMode_NODE }), "neither pid nor ipc to be NODE"},
	{"userns and host pid", mapped(goodMap, func(o *runtime.NamespaceOption) { o.Pid = runtime.NamespaceMode_NODE }), "neither pid nor ipc to be NODE"},
	{"user", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 1 << 31}
	}, "run_as_user"},
	{"negative user", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: -1}
	}, "run_as_user"},
	{"annotations", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Annotations = map[string]string{"a": strings.Repeat("x", 600<<10)}
	}, "config.annotations"},
	{"seccomp", func(_ *runtime.RunPodSandboxRequest, c *config) {
		c.Linux.SecurityContext.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost}
	}, "seccomp.localhost_ref"},
}

func TestSandboxRefused(t *testing.T) {
	w := started(t)
	for _, c := range refusedSandboxes {
		t.Run(c.name, func(t *testing.T) {
			r := sandboxRequest()
			c.change(r, r.GetConfig())
			_, err := w.RunPodSandbox(t.Context(), r)
			wantCode(t, err, codes.InvalidArgument, c.want)
		})
	}
	r := sandboxRequest()
	mapped(goodMap, nil)(r, r.GetConfig())
	_, err := w.RunPodSandbox(t.Context(), r)
	wantCode(t, err, codes.Unimplemented, `userns_options.mode POD is not supported by runtime handler "": too old`)
	r.Config.Metadata.Name, r.Config.Hostname = "", "a b"
	_, err = w.RunPodSandbox(t.Context(), r)
	wantCode(t, err, codes.InvalidArgument, "config.metadata.name is missing; config.hostname")
	if len(w.pods.ran) != 0 {
		t.Error("a refused request came through")
	}
}
