package stats

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
)

// unpack writes an archive of files into a directory, as a kernel would show them.
func unpack(t *testing.T, name string) string {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range a.Files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func v1(dir string) reader {
	m := cgroupfs.Mounts{V1: map[string]string{}}
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio"} {
		m.V1[c] = filepath.Join(dir, c)
	}
	return reader{m}
}

func v2(dir string) reader { return reader{cgroupfs.Mounts{Unified: dir}} }

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		name string
		of   func(string) reader
		want Usage
	}{
		{"v1.txtar", v1, Usage{
			CPU: CPU{Total: 123456789},
			Memory: Memory{
				Usage: 10000, WorkingSet: 7000, RSS: 4000, Cache: 5000, MappedFile: 600, ActiveFile: 2000, InactiveFile: 3000,
				Limit: 1048576, PageFaults: 70, MajorFaults: 8,
			},
			Swap: Swap{Usage: 90, Limit: 4096},
		}},
		{"v2.txtar", v2, Usage{
			CPU: CPU{Total: 123456000, Pressure: &Pressure{
				Some: Stall{Total: 171042682000, Avg10: 3.62, Avg60: 3.61, Avg300: 5.27}, Full: Stall{Total: 1000},
			}},
			Memory: Memory{
				Usage: 10000, WorkingSet: 7000, RSS: 4000, Cache: 5000, MappedFile: 600, ActiveFile: 2000, InactiveFile: 3000,
				Limit: 1048576, PageFaults: 70, MajorFaults: 8,
				Pressure: &Pressure{Some: Stall{Total: 5000, Avg300: 0.01}},
			},
			Swap: Swap{Usage: 90, Limit: None},
		}},
	} {
		r := c.of(unpack(t, c.name))
		got, err := r.usage("/pod/ctr")
		if err != nil || time.Since(got.At) > time.Minute {
			t.Errorf("%s: %v, %v", c.name, got.At, err)
		}
		got.At = time.Time{}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
		if _, err := r.usage("/pod/gone"); !errdefs.IsNotFound(err) {
			t.Errorf("%s: one that is gone: %v", c.name, err)
		}
		if n, err := r.tasks("/pod/ctr"); err != nil || n != 12 {
			t.Errorf("%s: %d tasks, %v", c.name, n, err)
		}
		if cpu, err := r.cpu("/pod/ctr"); err != nil || cpu != c.want.CPU.Total {
			t.Errorf("%s: cpu %d, %v", c.name, cpu, err)
		}
	}
}

func TestDetails(t *testing.T) {
	device := Device{Name: deviceName("8", "0"), Major: "8", Minor: "0", ReadBytes: 4096, WriteBytes: 8192, ReadCount: 1, WriteCount: 2}
	other := Device{Name: deviceName("259", "1"), Major: "259", Minor: "1", ReadBytes: 512, ReadCount: 3}
	for _, c := range []struct {
		name string
		of   func(string) reader
		want Details
	}{
		{"v1.txtar", v1, Details{
			User: 250_000_000, System: 30_000_000, Periods: 10, ThrottledPeriods: 4, ThrottledTime: 5000000,
			MaxMemory: 20000, KernelMemory: 300, MemoryFailures: 6, OOMKills: 2, Devices: []Device{device, other},
			Threads: 12, MaxThreads: None,
		}},
		{"v2.txtar", v2, Details{
			User: 100_000_000, System: 23_456_000, Periods: 10, ThrottledPeriods: 4, ThrottledTime: 5000000,
			MaxMemory: 20000, KernelMemory: 300, MemoryFailures: 6, OOMKills: 2, Devices: []Device{device, other},
			Threads: 12, MaxThreads: 100,
		}},
	} {
		got, err := c.of(unpack(t, c.name)).details("/pod/ctr", 0)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

func TestAvailable(t *testing.T) {
	for _, c := range []struct {
		m    Memory
		want uint64
		ok   bool
	}{
		{Memory{WorkingSet: 40, Limit: 100}, 60, true}, {Memory{WorkingSet: 140, Limit: 100}, 0, true}, {Memory{WorkingSet: 40, Limit: None}, 0, false},
	} {
		if got, ok := c.m.Available(); got != c.want || ok != c.ok {
			t.Errorf("%+v: %d, %v", c.m, got, ok)
		}
	}
}

func TestBadFiles(t *testing.T) {
	dir := unpack(t, "v2.txtar")
	for file, text := range map[string]string{"memory.current": "many\n", "memory.max": "", "memory.swap.current": "-1"} {
		path := filepath.Join(dir, "pod/ctr", file)
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := v2(dir).usage("/pod/ctr"); !errdefs.IsDataLoss(err) {
			t.Errorf("%s with %q: %v", file, text, err)
		}
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
