package metrics

import (
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// scrape returns the lines of a scrape that are about us, without those of Go and the process.
func scrape(t *testing.T, m *Metrics) (lines []string, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, namespace) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines, w.Body.String()
}

func TestScrape(t *testing.T) {
	now := State{
		RuntimeReady: true,
		Sandboxes:    map[string]int{"ready": 2, "notready": 0}, Containers: map[string]int{"running": 3},
		Operations: []Operation{
			{"run sandbox", "attaching its network", time.Now().Add(-time.Minute)},
			{"run sandbox", "attaching its network", time.Now()},
			{"run sandbox", "cleaning up after: pod a-1 of user x", time.Now()},
			{"run sandbox", "cleaning up after: pod b-2 of user y", time.Now()},
		},
		Images: 4, ImageBytes: 1 << 20, DownloadedBytes: 4096, Quarantined: 1,
	}
	m := New("1.2.3", func() State { return now })
	ended := m.Call("RunPodSandbox")
	m.Call("PullImage") // does not end
	time.Sleep(3 * time.Millisecond)
	ended("OK")
	m.Call("RunPodSandbox")("Unavailable")
	m.CNI("bridge-ipam", "ADD", 30*time.Millisecond, nil)
	m.CNI("bridge-ipam", "ADD", 2*time.Second, errors.New("no luck"))
	m.Exit("OOMKilled")
	m.Exit("OOMKilled")

	lines, body := scrape(t, m)
	text := "\n" + strings.Join(lines, "\n") + "\n"
	for _, want := range []string{
		`cri_shim_runtime_ready 1`, `cri_shim_network_ready 0`,
		`cri_shim_sandboxes{state="ready"} 2`, `cri_shim_sandboxes{state="notready"} 0`, `cri_shim_containers{state="running"} 3`,
		`cri_shim_operations_in_flight{operation="run sandbox",stage="attaching its network"} 2`,
		`cri_shim_operations_in_flight{operation="run sandbox",stage="cleaning up after"} 2`,
		`cri_shim_images 4`, `cri_shim_image_filesystem_bytes 1.048576e+06`, `cri_shim_image_downloaded_bytes_total 4096`,
		`cri_shim_records_quarantined 1`,
		`cri_shim_rpcs_in_flight{method="RunPodSandbox"} 0`, `cri_shim_rpcs_in_flight{method="PullImage"} 1`,
		`cri_shim_rpc_duration_seconds_count{code="OK",method="RunPodSandbox"} 1`,
		`cri_shim_rpc_duration_seconds_bucket{code="OK",method="RunPodSandbox",le="0.0025"} 0`,
		`cri_shim_rpc_duration_seconds_count{code="Unavailable",method="RunPodSandbox"} 1`,
		`cri_shim_cni_plugin_duration_seconds_bucket{command="ADD",plugin="bridge-ipam",result="success",le="0.025"} 0`,
		`cri_shim_cni_plugin_duration_seconds_bucket{command="ADD",plugin="bridge-ipam",result="success",le="0.05"} 1`,
		`cri_shim_cni_plugin_duration_seconds_sum{command="ADD",plugin="bridge-ipam",result="failure"} 2`,
		`cri_shim_container_exits_total{reason="OOMKilled"} 2`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	const age = `cri_shim_operation_stage_age_seconds{operation="run sandbox",stage="attaching its network"} 6`
	if !strings.Contains(text, "\n"+age) { // 60 and some
		t.Errorf("the age is not that of the oldest: %s", text)
	}
	if !strings.Contains(text, `cri_shim_build_info{go_version="go1.`) || !strings.Contains(text, `version="1.2.3"} 1`) {
		t.Errorf("no build_info: %s", text)
	}
	if strings.Contains(text, "user x") {
		t.Error("the cause of a failure is a label")
	}
	if !strings.Contains(body, "\nprocess_resident_memory_bytes ") || !strings.Contains(body, "\ngo_goroutines ") {
		t.Error("nothing about the process, or about Go")
	}

	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, namespace) {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestAllAreDocumented: each metric has its line, with its labels, and no line is about one that there is not.
func TestAllAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../conf/prometheus/README.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(cri_shim_[a-z_]+)` \\|([^|]*)\\|").FindAllStringSubmatch(string(doc), -1) {
		documented[row[1]] = strings.Join(strings.Fields(strings.NewReplacer("`", "", ",", " ").Replace(row[2])), " ")
	}
	m := New("1.2.3", func() State {
		return State{Sandboxes: map[string]int{"ready": 1}, Containers: map[string]int{"running": 1}, Operations: []Operation{{Kind: "k", Stage: "s"}}}
	})
	m.Call("Version")("OK")
	m.CNI("bridge-ipam", "ADD", time.Second, nil)
	m.Exit("Completed")
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]string{}
	for _, f := range families {
		if name := f.GetName(); strings.HasPrefix(name, namespace) {
			var labels []string
			for _, l := range f.GetMetric()[0].GetLabel() {
				labels = append(labels, l.GetName())
			}
			slices.Sort(labels)
			there[name] = strings.Join(labels, " ")
		}
	}
	for name, labels := range documented {
		sorted := strings.Fields(labels)
		slices.Sort(sorted)
		documented[name] = strings.Join(sorted, " ")
	}
	if diff := cmp.Diff(there, documented); diff != "" {
		t.Errorf("conf/prometheus/README.md (-there +documented):\n%s", diff)
	}
}

// TestScrapeShowsNow: nothing of an earlier scrape is kept.
func TestScrapeShowsNow(t *testing.T) {
	now := State{Operations: []Operation{{"stop sandbox", "ending its containers", time.Now()}}}
	m := New("1.2.3", func() State { return now })
	before, _ := scrape(t, m)
	now = State{}
	after, _ := scrape(t, m)
	in := func(lines []string) bool { return strings.Contains(strings.Join(lines, "\n"), "ending its containers") }
	if !in(before) || in(after) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
}
