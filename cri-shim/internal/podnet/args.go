package podnet

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Capability arguments of the CNI conventions. libcni gives a plugin only those it declares.
type (
	portMapping struct {
		HostPort      int32  `json:"hostPort"`
		ContainerPort int32  `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP,omitempty"`
	}
	dns struct {
		Servers  []string `json:"servers,omitempty"`
		Searches []string `json:"searches,omitempty"`
		Options  []string `json:"options,omitempty"`
	}
	bandwidth struct { // bits per second, and bits
		IngressRate  uint64 `json:"ingressRate,omitempty"`
		IngressBurst uint64 `json:"ingressBurst,omitempty"`
		EgressRate   uint64 `json:"egressRate,omitempty"`
		EgressBurst  uint64 `json:"egressBurst,omitempty"`
	}
)

// capabilityArgs returns all that can be said of an attachment. With an error it returns the rest.
func capabilityArgs(a pod.Attachment) (map[string]any, error) {
	args := map[string]any{}
	if ports := mappings(a.Ports); len(ports) > 0 {
		args["portMappings"] = ports
	}
	if a.DNS != nil {
		args["dns"] = dns(*a.DNS)
	}
	if a.CgroupParent != "" {
		args["cgroupPath"] = a.CgroupParent
	}
	if len(a.Annotations) > 0 {
		args["io.kubernetes.cri.pod-annotations"] = a.Annotations
	}
	limits, err := limitsOf(a.Annotations)
	if err == nil && limits != (bandwidth{}) {
		args["bandwidth"] = limits
	}
	return args, err
}

func mappings(ports []pod.PortMapping) []portMapping {
	var out []portMapping
	for _, p := range ports {
		if p.HostPort > 0 {
			out = append(out, portMapping{p.HostPort, p.ContainerPort, p.Protocol, p.HostIP})
		}
	}
	return out
}

// limitsOf reads the bandwidth annotations of Kubernetes.
func limitsOf(annotations map[string]string) (bandwidth, error) {
	// Bits. Nobody asked for a burst, and plugins want one with a rate: the kubelet's own plugin sent this number.
	const burst = math.MaxInt32
	in, errIn := rate(annotations, "kubernetes.io/ingress-bandwidth")
	out, errOut := rate(annotations, "kubernetes.io/egress-bandwidth")
	if err := errors.Join(errIn, errOut); err != nil {
		return bandwidth{}, err
	}
	b := bandwidth{IngressRate: in, EgressRate: out}
	if in > 0 {
		b.IngressBurst = burst
	}
	if out > 0 {
		b.EgressBurst = burst
	}
	return b, nil
}

func rate(annotations map[string]string, key string) (uint64, error) {
	v, ok := annotations[key]
	if !ok {
		return 0, nil
	}
	const least, most = 1e3, 1e15
	n, ok := quantity(v)
	if !ok || n < least || n > most {
		return 0, fmt.Errorf("annotation %s %.80q: want bits per second from 1k to 1P, like 10M: %w", key, v, errdefs.ErrInvalidArgument)
	}
	return uint64(math.Ceil(n)), nil
}

var (
	quantityForm = regexp.MustCompile(`^([+]?[0-9]+\.?[0-9]*|[+]?\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$`)
	multiplier   = map[string]float64{
		"": 1, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
		"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
	}
)

// quantity reads a number as Kubernetes writes them: 10M, 1.5Gi, 3e6.
func quantity(s string) (float64, bool) {
	m := quantityForm.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	factor, known := multiplier[m[2]]
	if !known { // an exponent
		n, err := strconv.ParseFloat(s, 64)
		return n, err == nil
	}
	n, err := strconv.ParseFloat(m[1], 64)
	return n * factor, err == nil
}

// addresses returns the addresses of eth0, the preferred family first and the plugins' order kept.
func addresses(res types.Result, preferV6 bool) ([]netip.Addr, error) {
	if hasNull(res) {
		return nil, errors.New("read the result: null in its interfaces or ips")
	}
	r, err := types100.NewResultFromResult(res)
	if err != nil {
		return nil, fmt.Errorf("read the result: %w", err)
	}
	var ips []netip.Addr
	for _, c := range r.IPs {
		if !onPod(r, c) {
			continue
		}
		ip, ok := netip.AddrFromSlice(c.Address.IP)
		if !ok {
			return nil, fmt.Errorf("read the result: no address in %v", c)
		}
		ips = append(ips, ip.Unmap())
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("the result has no address for %s", ifName)
	}
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return rank(a, preferV6) - rank(b, preferV6) })
	return ips, nil
}

// hasNull says whether a list of a result has an element that is none: the library would follow it.
func hasNull(res types.Result) bool {
	switch r := res.(type) {
	case *types040.Result:
		return slices.Contains(r.Interfaces, nil) || slices.Contains(r.IPs, nil)
	case *types100.Result:
		return slices.Contains(r.Interfaces, nil) || slices.Contains(r.IPs, nil)
	}
	return false
}

// onPod says whether an address is of eth0. Older plugins do not say where an address is.
func onPod(r *types100.Result, c *types100.IPConfig) bool {
	if c.Interface == nil {
		return true
	}
	i := *c.Interface
	return i >= 0 && i < len(r.Interfaces) && r.Interfaces[i].Name == ifName && r.Interfaces[i].Sandbox != ""
}

func rank(ip netip.Addr, preferV6 bool) int {
	if ip.Is6() == preferV6 {
		return 0
	}
	return 1
}
