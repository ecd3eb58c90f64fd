package podns

import (
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// The sysctls that the kernel keeps per namespace, and thus per pod (namespaces(7), ipc_namespaces(7)).
var (
	ipcSysctls  = []string{"kernel.shm", "kernel.msg", "fs.mqueue."}
	goodSysctl  = regexp.MustCompile(`^[a-z0-9_-]+([./][a-zA-Z0-9_*:-]+)+$`)
	defaultNets = map[string]string{
		// A container may bind any port and ping without capabilities: its network is its own.
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net.ipv4.ping_group_range":           "0 2147483647",
	}
)

func isIPC(key string) bool {
	for _, prefix := range ipcSysctls {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return key == "kernel.sem"
}

// CheckSysctls refuses names that are no sysctls, values that are more than one line, and sysctls of a
// namespace that the sandbox shares with the host.
func CheckSysctls(s pod.Sandbox) error {
	for key, value := range s.Config.Sysctls {
		key = strings.ReplaceAll(key, "/", ".")
		fault := ""
		switch {
		case !goodSysctl.MatchString(key) || strings.Contains(key, ".."):
			fault = "is not the name of a sysctl"
		case strings.ContainsAny(value, "\n\x00"):
			fault = "has a value of more than one line"
		case strings.HasPrefix(key, "net."):
			if s.HostNetwork() {
				fault = "would change the host: the pod uses the host's network"
			}
		case isIPC(key):
			if s.HostIPC() {
				fault = "would change the host: the pod uses the host's IPC namespace"
			}
		default:
			fault = "is not kept per namespace: must be net.*, kernel.shm*, kernel.msg*, kernel.sem or fs.mqueue.*"
		}
		if fault != "" {
			return fmt.Errorf("sysctl %.100q=%.100q: %s: %w", key, value, fault, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func sysctlsOf(s pod.Sandbox) map[string]string {
	out := map[string]string{}
	if !s.HostNetwork() {
		maps.Copy(out, defaultNets)
	}
	for key, value := range s.Config.Sysctls {
		out[strings.ReplaceAll(key, "/", ".")] = value
	}
	return out
}
