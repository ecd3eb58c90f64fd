package criserver

import (
	"context"
	"slices"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/stats"
)

// family is one metric: what the kubelet's cAdvisor endpoint shows under this name (KEP-2371). Names and labels
// are an interface that dashboards are written against.
type family struct {
	name, help string
	kind       runtime.MetricType
	labels     []string // beyond baseLabels
}

// baseLabels are those of every metric, in the order of cAdvisor: id is the cgroup, name the container's id.
var baseLabels = []string{"id", "name", "image", "pod", "namespace", "container"}

const (
	counter = runtime.MetricType_COUNTER
	gauge   = runtime.MetricType_GAUGE
)

// point is one value of a family, with the values of its own labels.
type point struct {
	value  uint64
	labels []string
	at     int64 // ns; 0: read just now
}

// reading is all that was read of one container.
type reading struct {
	container pod.Container
	usage     stats.Container
	details   stats.Details
	fs        stats.FileSystem
	now       int64 // s
}

// containerFamily is a family with values per container.
type containerFamily struct {
	family
	points func(reading) []point
}

// podFamily is a family with one value per network interface of a pod.
type podFamily struct {
	family
	value func(stats.Network, int) uint64
}

// checkFamily is a family with one value per pod, of how its network was found when it was checked.
type checkFamily struct {
	family
	value func(pod.NetworkCheck) uint64
}

// ListMetricDescriptors names all metrics; they are the same for the whole life of the server.
func (s *runtimeService) ListMetricDescriptors(context.Context, *runtime.ListMetricDescriptorsRequest) (*runtime.ListMetricDescriptorsResponse, error) {
	resp := &runtime.ListMetricDescriptorsResponse{}
	add := func(f family) {
		resp.Descriptors = append(resp.Descriptors, &runtime.MetricDescriptor{
			Name: f.name, Help: f.help, LabelKeys: slices.Concat(baseLabels, f.labels),
		})
	}
	for _, f := range containerFamilies {
		add(f.family)
	}
	for _, f := range networkFamilies {
		add(f.family)
	}
	for _, f := range checkFamilies {
		add(f.family)
	}
	return resp, nil
}

// ListPodSandboxMetrics reads all metrics of the ready sandboxes and their running containers. What vanishes
// meanwhile is left out.
func (s *runtimeService) ListPodSandboxMetrics(context.Context, *runtime.ListPodSandboxMetricsRequest) (*runtime.ListPodSandboxMetricsResponse, error) {
	fs, err := s.Stats.FileSystem()
	if err != nil {
		return nil, err
	}
	resp := &runtime.ListPodSandboxMetricsResponse{}
	all := s.surroundings()
	for _, sb := range s.Sandboxes.Sandboxes() {
		if sb.State != pod.Ready {
			continue
		}
		u, err := all.measure(s.Stats, sb)
		if err != nil {
			s.skip("pod", sb.ID, err)
			continue
		}
		out := &runtime.PodSandboxMetrics{PodSandboxId: string(sb.ID), Metrics: append(networkMetrics(sb, u), s.checkMetrics(sb, u)...)}
		for _, c := range all.running[sb.ID] {
			metrics, err := s.containerMetrics(sb, c, fs)
			if err != nil {
				s.skip("container", c.ID, err)
				continue
			}
			out.ContainerMetrics = append(out.ContainerMetrics, metrics)
		}
		resp.PodMetrics = append(resp.PodMetrics, out)
	}
	return resp, nil
}

func (s *runtimeService) skip(kind string, id pod.ID, err error) {
	if !errdefs.IsNotFound(err) {
		s.Logger.Warn("read metrics", kind, id, "err", err)
	}
}

func (s *runtimeService) containerMetrics(sb pod.Sandbox, c pod.Container, fs stats.FileSystem) (*runtime.ContainerMetrics, error) {
	u, err := s.Stats.Container(c)
	if err != nil {
		return nil, err
	}
	d, err := s.Stats.Details(c)
	if err != nil {
		return nil, err
	}
	base := []string{u.Cgroup, string(c.ID), imageOut(c.Config).GetImage(), sb.Config.Name, sb.Config.Namespace, c.Config.Name}
	out := &runtime.ContainerMetrics{ContainerId: string(c.ID)}
	r := reading{container: c, usage: u, details: d, fs: fs, now: u.At.Unix()}
	for _, f := range containerFamilies {
		for _, p := range f.points(r) {
			out.Metrics = append(out.Metrics, metricOut(f.family, base, p))
		}
	}
	return out, nil
}

// podContainer is what the label "container" says of a pod as a whole, by an old custom of the kubelet.
const podContainer = "POD"

func networkMetrics(sb pod.Sandbox, u stats.Sandbox) []*runtime.Metric {
	if u.Network == nil || u.Network.Default == nil {
		return nil
	}
	n := *u.Network
	base := []string{u.Cgroup, string(sb.ID), "", sb.Config.Name, sb.Config.Namespace, podContainer}
	var out []*runtime.Metric
	for _, f := range networkFamilies {
		for i := range len(n.Others) + 1 {
			out = append(out, metricOut(f.family, base, point{value: f.value(n, i), labels: []string{interfaceOf(n, i).Name}}))
		}
	}
	return out
}

// checkMetrics are there as soon as the network was checked.
func (s *runtimeService) checkMetrics(sb pod.Sandbox, u stats.Sandbox) []*runtime.Metric {
	c, ok := s.Network.Checked(sb.ID)
	if !ok {
		return nil
	}
	base := []string{u.Cgroup, string(sb.ID), "", sb.Config.Name, sb.Config.Namespace, podContainer}
	var out []*runtime.Metric
	for _, f := range checkFamilies {
		out = append(out, metricOut(f.family, base, point{value: f.value(c)}))
	}
	return out
}

func metricOut(f family, base []string, p point) *runtime.Metric {
	return &runtime.Metric{
		Name: f.name, Timestamp: p.at, MetricType: f.kind, LabelValues: slices.Concat(base, p.labels), Value: number(p.value),
	}
}
