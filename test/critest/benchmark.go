package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// parameters are enough samples for a median, and few enough for a minute. The file is YAML, of which JSON is a
// part.
var parameters = map[string]any{
	"containersNumber": 20, "containersNumberParallel": 1, "containerBenchmarkTimeoutSeconds": 60,
	"podsNumber": 20, "podsNumberParallel": 1, "podBenchmarkTimeoutSeconds": 60,
	"imagesNumber": 5, "imagesNumberParallel": 1, "imageBenchmarkTimeoutSeconds": 60,
	"podContainerStartBenchmarkTimeoutSeconds": 60,
}

// writeBenchmark writes the parameters and returns the arguments that name them.
func writeBenchmark(dir string) ([]string, error) {
	data, err := json.Marshal(parameters)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "parameters.yaml")
	return []string{"-benchmarking-params-file=" + path, "-benchmarking-output-dir=" + dir}, os.WriteFile(path, data, 0o644)
}

// showBenchmarks prints the median of each operation.
func showBenchmarks(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*_benchmark_data.json"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("the suite left no benchmark data: %w", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var set struct {
			Operations []string `json:"operationsNames"`
			Datapoints []struct {
				Durations []int64 `json:"operationsDurationsNs"`
			} `json:"datapoints"`
		}
		if err := json.Unmarshal(data, &set); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
		for i, name := range set.Operations {
			var times []int64
			for _, d := range set.Datapoints {
				times = append(times, d.Durations[i])
			}
			if len(times) == 0 {
				continue
			}
			slices.Sort(times)
			fmt.Printf("  %-20s p50 %8.2f ms of %d\n", name, float64(times[len(times)/2])/float64(time.Millisecond), len(times))
		}
	}
	return nil
}
