package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// State is what is at one moment.
type State struct {
	RuntimeReady, NetworkReady bool           // the conditions of the CRI's Status
	Sandboxes, Containers      map[string]int // by state
	Operations                 []Operation    // in flight
	Images                     int
	ImageBytes                 uint64 // that they take on disk
	DownloadedBytes            uint64 // from registries, since the start
	Quarantined                int    // records that were set aside
}

// Operation is a piece of work in flight. Its stage is a fixed text; what follows a colon in it is left out.
type Operation struct {
	Kind, Stage string
	Since       time.Time // when the stage began
}

// state makes metrics of what it looks up.
type state func() State

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

var (
	runtimeReady = describe("runtime_ready", "1 while containers can be run: the condition RuntimeReady of the CRI.")
	networkReady = describe("network_ready", "1 while pods can be attached: the condition NetworkReady of the CRI.")
	sandboxes    = describe("sandboxes", "Pod sandboxes by state.", "state")
	containers   = describe("containers", "Containers by state.", "state")
	operations   = describe("operations_in_flight", "Work in flight on sandboxes and containers, by its stage. It goes on when its caller gives up.", "operation", "stage")
	stageAge     = describe("operation_stage_age_seconds", "How long the oldest of the work in flight has been at its stage.", "operation", "stage")
	images       = describe("images", "Images on the node.")
	imageBytes   = describe("image_filesystem_bytes", "What images take on disk.")
	downloaded   = describe("image_downloaded_bytes_total", "Bytes read from registries.")
	quarantined  = describe("records_quarantined", "Records that could not be trusted and were set aside; see cri-shim doctor.")
)

// Describe implements prometheus.Collector.
func (s state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		runtimeReady, networkReady, sandboxes, containers, operations, stageAge, images, imageBytes, downloaded, quarantined,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s state) Collect(ch chan<- prometheus.Metric) {
	now := s()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(runtimeReady, truth(now.RuntimeReady))
	gauge(networkReady, truth(now.NetworkReady))
	for name, count := range now.Sandboxes {
		gauge(sandboxes, float64(count), name)
	}
	for name, count := range now.Containers {
		gauge(containers, float64(count), name)
	}
	type at struct{ kind, stage string }
	count, oldest := map[at]int{}, map[at]time.Duration{}
	for _, o := range now.Operations {
		stage, _, _ := strings.Cut(o.Stage, ":")
		k := at{o.Kind, stage}
		count[k]++
		oldest[k] = max(oldest[k], time.Since(o.Since))
	}
	for k := range count {
		gauge(operations, float64(count[k]), k.kind, k.stage)
		gauge(stageAge, oldest[k].Seconds(), k.kind, k.stage)
	}
	gauge(images, float64(now.Images))
	gauge(imageBytes, float64(now.ImageBytes))
	ch <- prometheus.MustNewConstMetric(downloaded, prometheus.CounterValue, float64(now.DownloadedBytes))
	gauge(quarantined, float64(now.Quarantined))
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
