// Package metrics shows Prometheus what cri-shim does. What happens is counted when it happens. What is, is looked up when
// somebody asks, in snapshots that are kept for others anyway: a scrape waits for nobody's work, and without one nothing is done
// but to count. Names and units follow Prometheus' rules: seconds, bytes, counters end in _total.
package metrics

import (
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	namespace = "cri_shim"
	// maxScrapes at one time, and scrapeLimit for one, keep a client that asks again and again from taking our memory.
	maxScrapes  = 4
	scrapeLimit = 10 * time.Second
)

// seconds are the buckets of durations: a list takes one, a pod's start some ten of them, a pull minutes.
var seconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 240}

// Metrics counts.
type Metrics struct {
	registry *prometheus.Registry
	rpcs     *prometheus.HistogramVec
	open     *prometheus.GaugeVec
	cni      *prometheus.HistogramVec
	exits    *prometheus.CounterVec
}

// New makes counters that are all zero. look is called for each scrape and must not wait; version is cri-shim's.
func New(version string, look func() State) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		rpcs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "rpc_duration_seconds", Buckets: seconds,
			Help: "How long calls of the CRI took, by method and gRPC code.",
		}, []string{"method", "code"}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "rpcs_in_flight",
			Help: "Calls of the CRI that have not been answered yet, by method.",
		}, []string{"method"}),
		cni: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "cni_plugin_duration_seconds", Buckets: seconds,
			Help: "How long CNI plugins took, by plugin, command and result (success or failure).",
		}, []string{"plugin", "command", "result"}),
		exits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "container_exits_total",
			Help: "Containers that have ended, by reason. One that is removed while it runs is not counted.",
		}, []string{"reason"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(
		build, m.rpcs, m.open, m.cni, m.exits, state(look),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Call notes that a call of the CRI has begun. What it returns is called once, with the gRPC code, when it has ended.
func (m *Metrics) Call(method string) func(code string) {
	begin := time.Now()
	open := m.open.WithLabelValues(method)
	open.Inc()
	return func(code string) {
		open.Dec()
		m.rpcs.WithLabelValues(method, code).Observe(time.Since(begin).Seconds())
	}
}

// CNI notes that a plugin was executed.
func (m *Metrics) CNI(plugin, command string, took time.Duration, err error) {
	result := "success"
	if err != nil {
		result = "failure"
	}
	m.cni.WithLabelValues(plugin, command, result).Observe(took.Seconds())
}

// Exit notes that a container has ended.
func (m *Metrics) Exit(reason string) { m.exits.WithLabelValues(reason).Inc() }

// Handler answers scrapes, whatever their path.
func (m *Metrics) Handler(logger *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		DisableCompression:  true, // some 40 KB over the node's own network, against a megabyte of memory for each compressor
		MaxRequestsInFlight: maxScrapes, Timeout: scrapeLimit,
	})
}
