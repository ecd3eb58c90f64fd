package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// scrape is what Prometheus would read: values by name and labels, as they stand in the text.
func scrape(address string) (map[string]float64, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		network := "tcp"
		path, unix := strings.CutPrefix(address, "unix://")
		if unix {
			network = "unix"
		}
		return (&net.Dialer{}).DialContext(ctx, network, path)
	}}}
	resp, err := client.Get("http://node/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s, %w", resp.Status, body, err)
	}
	values := map[string]float64{}
	for _, line := range regexp.MustCompile(`(?m)^([a-z].*) (\S+)$`).FindAllStringSubmatch(string(body), -1) {
		if values[line[1]], err = strconv.ParseFloat(line[2], 64); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// TestMetrics: what happens on the node is counted, what hangs is named, and a port that somebody else has keeps no pod
// from running.
func TestMetrics(t *testing.T) {
	n := prepareNode(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	n.must(err)
	defer taken.Close()
	address := taken.Addr().String()
	n.configure("[metrics]\naddress = \"" + address + "\"\n")
	n.must(n.Start())
	n.crictl("pull", image)
	p := n.pod("metrics")
	if log := n.ShimLog(); !strings.Contains(log, "serve metrics") || !strings.Contains(log, "address already in use") {
		t.Errorf("nothing is said of the port that is taken: %s", log)
	}
	n.must(taken.Close())
	var now map[string]float64
	n.eventually(func() bool { now, err = scrape(address); return err == nil })

	n.ended(n.run(p, "metrics", "well", "exit 0", ""))
	n.ended(n.run(p, "metrics", "badly", "exit 3", ""))
	deaf := n.run(p, "metrics", "deaf", "trap '' TERM; while :; do sleep 0.1; done", "")
	if _, err := n.Crictl("exec", "--sync", "0123456789abcdef", "true"); err == nil {
		t.Error("a command in no container")
	}
	stop := n.CrictlCommand(t.Context(), "stop", "-t", "600", deaf)
	n.must(stop.Start())
	const waits = `{operation="stop container",stage="waiting for it to end by itself"}`
	n.eventually(func() bool {
		now, err = scrape(address)
		n.must(err)
		return now["cri_shim_operations_in_flight"+waits] == 1
	})
	for metric, want := range map[string]float64{
		"cri_shim_runtime_ready": 1, "cri_shim_network_ready": 1, "cri_shim_records_quarantined": 0, "cri_shim_images": 1,
		`cri_shim_sandboxes{state="ready"}`: 1, `cri_shim_sandboxes{state="notready"}`: 0,
		`cri_shim_containers{state="running"}`: 1, `cri_shim_containers{state="exited"}`: 2, `cri_shim_containers{state="created"}`: 0,
		`cri_shim_container_exits_total{reason="Completed"}`: 1, `cri_shim_container_exits_total{reason="Error"}`: 1,
		`cri_shim_rpc_duration_seconds_count{code="OK",method="RunPodSandbox"}`:                                     1,
		`cri_shim_rpc_duration_seconds_count{code="OK",method="StartContainer"}`:                                    3,
		`cri_shim_rpc_duration_seconds_count{code="NotFound",method="ExecSync"}`:                                    1,
		`cri_shim_rpcs_in_flight{method="StopContainer"}`:                                                           1,
		`cri_shim_cni_plugin_duration_seconds_count{command="ADD",plugin="bridge-ipam",result="success"}`:           1,
		`cri_shim_cni_plugin_duration_seconds_bucket{command="ADD",plugin="bridge-ipam",result="success",le="240"}`: 1,
	} {
		if got, ok := now[metric]; !ok || got != want {
			t.Errorf("%s is %v, want %v", metric, got, want)
		}
	}
	for _, metric := range []string{
		"cri_shim_image_downloaded_bytes_total", "cri_shim_image_filesystem_bytes", "cri_shim_operation_stage_age_seconds" + waits,
		`cri_shim_rpc_duration_seconds_sum{code="OK",method="RunPodSandbox"}`, "process_resident_memory_bytes",
	} {
		if now[metric] <= 0 {
			t.Errorf("%s is %v", metric, now[metric])
		}
	}
	for metric := range now {
		if strings.Contains(metric, p) || strings.Contains(metric, deaf) || strings.Contains(metric, image) {
			t.Errorf("it names what only one pod has: %s", metric)
		}
	}
	n.crictl("stop", "-t", "0", deaf)
	if err := stop.Wait(); err != nil {
		t.Error(err)
	}
	if now, err = scrape(address); err != nil || now["cri_shim_operations_in_flight"+waits] != 0 || now[`cri_shim_rpcs_in_flight{method="StopContainer"}`] != 0 {
		t.Errorf("after the stop: %v, %v", now, err)
	}
}

// TestMetricsBySocket: what is shown of now is there after a restart, before anything happens.
func TestMetricsBySocket(t *testing.T) {
	n := prepareNode(t)
	address := "unix://" + n.Base + "/metrics.sock"
	n.configure("[metrics]\naddress = \"" + address + "\"\n")
	n.must(n.Start())
	n.crictl("pull", image)
	n.run(n.pod("metrics"), "metrics", "main", "exec sleep 1000", "")
	n.must(n.Kill())
	n.must(n.Start())
	var now map[string]float64
	n.eventually(func() (ok bool) {
		var err error
		now, err = scrape(address)
		return err == nil && now["cri_shim_runtime_ready"] == 1
	})
	if now[`cri_shim_sandboxes{state="ready"}`] != 1 || now[`cri_shim_containers{state="running"}`] != 1 {
		t.Errorf("got %v", now)
	}
}
