package criserver

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// sandboxIn checks and translates what a caller asks of a sandbox. Resources and overhead are those of the pod's
// cgroup, which the caller makes itself: they are kept for plugins and for people.
func sandboxIn(f *faults, c *runtime.PodSandboxConfig, handler string, systemdCgroup bool) pod.SandboxConfig {
	if c == nil {
		f.missing("config")
		return pod.SandboxConfig{}
	}
	m := c.GetMetadata()
	if m == nil {
		f.missing("config.metadata")
	} else {
		f.name("config.metadata.name", m.GetName())
		f.name("config.metadata.namespace", m.GetNamespace())
		f.name("config.metadata.uid", m.GetUid())
	}
	f.hostname("config.hostname", c.GetHostname())
	if c.GetLogDirectory() != "" {
		f.absolute("config.log_directory", c.GetLogDirectory())
	}
	f.metadata("config.labels", c.GetLabels())
	f.metadata("config.annotations", c.GetAnnotations())

	linux := c.GetLinux()
	sc := linux.GetSecurityContext()
	namespaces := sandboxNamespacesIn(f, sc.GetNamespaceOptions())
	return pod.SandboxConfig{
		Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUid(), Attempt: m.GetAttempt(),
		Handler:      handler,
		Hostname:     c.GetHostname(),
		LogDirectory: cleanPath(c.GetLogDirectory()),
		DNS:          dnsIn(f, c.GetDnsConfig()),
		Ports:        portsIn(f, c.GetPortMappings()),
		Labels:       c.GetLabels(),
		Annotations:  c.GetAnnotations(),
		CgroupParent: cgroupParentIn(f, linux.GetCgroupParent(), systemdCgroup),
		Sysctls:      sysctlsIn(f, linux.GetSysctls(), namespaces),
		Namespaces:   namespaces,
		Privileged:   sc.GetPrivileged(),
		Overhead:     optionalResources(f, "config.linux.overhead", linux.GetOverhead()),
		Resources:    optionalResources(f, "config.linux.resources", linux.GetResources()),
		Security:     sandboxSecurityIn(f, sc),
	}
}

func cleanPath(p string) string {
	if p == "" {
		return ""
	}
	return path.Clean(p)
}

// dnsIn keeps nil and empty apart: nil is the host's resolv.conf, empty is an empty one.
func dnsIn(f *faults, d *runtime.DNSConfig) *pod.DNS {
	if d == nil {
		return nil
	}
	f.words("config.dns_config.servers", d.GetServers())
	f.words("config.dns_config.searches", d.GetSearches())
	f.words("config.dns_config.options", d.GetOptions())
	return &pod.DNS{Servers: d.GetServers(), Searches: d.GetSearches(), Options: d.GetOptions()}
}

var protocols = map[runtime.Protocol]string{
	runtime.Protocol_TCP: "tcp", runtime.Protocol_UDP: "udp", runtime.Protocol_SCTP: "sctp",
}

func portsIn(f *faults, ports []*runtime.PortMapping) []pod.PortMapping {
	out := make([]pod.PortMapping, 0, len(ports))
	for i, p := range ports {
		field := fmt.Sprintf("config.port_mappings[%d]", i)
		protocol, ok := protocols[p.GetProtocol()]
		if !ok {
			f.bad(field+".protocol", int32(p.GetProtocol()), "TCP, UDP or SCTP")
		}
		f.within(field+".host_port", int64(p.GetHostPort()), 0, maxPort)
		least := int64(0)
		if p.GetHostPort() > 0 {
			least = 1
		}
		f.within(field+".container_port", int64(p.GetContainerPort()), least, maxPort)
		if ip := p.GetHostIp(); ip != "" {
			if _, err := netip.ParseAddr(ip); err != nil {
				f.bad(field+".host_ip", ip, "an IP address")
			}
		}
		out = append(out, pod.PortMapping{
			Protocol: protocol, ContainerPort: p.GetContainerPort(), HostPort: p.GetHostPort(), HostIP: p.GetHostIp(),
		})
	}
	return out
}

// cgroupParentIn takes a path for cgroupfs and a slice for systemd. The kubelet gives a slice with
// all its parents, which systemd derives from its name.
func cgroupParentIn(f *faults, v string, systemd bool) string {
	const field = "config.linux.cgroup_parent"
	if v == "" {
		return ""
	}
	if hasDotDot(v) || hasControl(v) {
		f.bad(field, v, `a cgroup without ".."`)
		return ""
	}
	if !systemd {
		if strings.HasSuffix(v, ".slice") && !path.IsAbs(v) {
			f.bad(field, v, "a path that begins with '/': the cgroup driver is cgroupfs, not systemd")
		}
		return path.Join("/", v)
	}
	slice := path.Base(v)
	if !sliceForm.MatchString(slice) {
		f.bad(field, v, "the name of a slice, \"….slice\": the cgroup driver is systemd")
	}
	return slice
}

var sliceForm = regexp.MustCompile(`^(-|[A-Za-z0-9:_.\\-]+)\.slice$`)

var (
	sysctlName  = regexp.MustCompile(`^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)+$`)
	sysctlValue = regexp.MustCompile(`^[A-Za-z0-9 \t,.:/_-]*$`)
)

// sysctlsIn accepts only what belongs to a namespace that is the pod's own. Names come out with dots
// as separators; a '/' in them then stands for a dot, as in sysctl(8).
func sysctlsIn(f *faults, in map[string]string, n pod.Namespaces) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		field := "config.linux.sysctls[" + cut(k) + "]"
		name := dotted(k)
		switch {
		case !sysctlName.MatchString(k):
			f.bad(field, k, "a name like net.ipv4.ip_forward")
		case !sysctlValue.MatchString(v):
			f.bad(field, v, "letters, digits, spaces and \",.:/_-\"")
		case strings.HasPrefix(name, "net."):
			if n.Network == pod.ModeNode {
				f.bad(field, v, "none of net.*: the pod uses the host's network")
			}
		case isIPC(name):
			if n.IPC == pod.ModeNode {
				f.bad(field, v, "none of the IPC sysctls: the pod uses the host's IPC namespace")
			}
		default:
			f.bad(field, v, "a namespaced sysctl: net.*, kernel.shm*, kernel.msg*, kernel.sem or fs.mqueue.*")
		}
		out[name] = v
	}
	return out
}

func dotted(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(name)
}

func isIPC(name string) bool {
	if name == "kernel.sem" {
		return true
	}
	for _, prefix := range []string{"kernel.shm", "kernel.msg", "fs.mqueue."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
