package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// spec is what ginkgo's JSON report says of one (ginkgo v2, types.SpecReport).
type spec struct {
	Containers []string `json:"ContainerHierarchyTexts"`
	Leaf       string   `json:"LeafNodeText"`
	Type       string   `json:"LeafNodeType"`
	State      string   `json:"State"`
	Failure    struct {
		Message string `json:"Message"`
	} `json:"Failure"`
}

func (s spec) name() string { return strings.Join(append(slices.Clone(s.Containers), s.Leaf), " ") }

// readReport reads the one file that matches one of the patterns.
func readReport(patterns ...string) ([]spec, error) {
	var paths []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			return nil, err
		}
		paths = append(paths, found...)
	}
	if len(paths) != 1 {
		return nil, fmt.Errorf("the suite left %d reports, not one", len(paths))
	}
	data, err := os.ReadFile(paths[0])
	if err != nil {
		return nil, err
	}
	var reports []struct {
		SpecReports []spec `json:"SpecReports"`
	}
	if err := json.Unmarshal(data, &reports); err != nil {
		return nil, fmt.Errorf("read the suite's report: %w", err)
	}
	var out []spec
	for _, r := range reports {
		out = append(out, r.SpecReports...)
	}
	return out, nil
}

// lack is a reason for which a spec may skip itself: what it says, and whether that is so of this host and of the
// OCI runtime, whose features (runtime-spec, features.md) are given.
type lack struct {
	says string
	true func(features string) bool
}

// lacks are the reasons that are accepted. Any other skip would be a gap that nobody sees, and fails the run.
var lacks = []lack{
	{"AppArmor is disabled", func(string) bool { return !enabled("/sys/module/apparmor/parameters/enabled") }},
	{"runtime does not implement recursive readonly mounts", func(f string) bool { return !strings.Contains(f, `"rro"`) }},
	{"no runtime handler found which supports user namespaces", func(f string) bool { return !strings.Contains(f, `"idmap": {`) }},
}

func enabled(path string) bool {
	data, err := os.ReadFile(path)
	return err == nil && strings.HasPrefix(string(data), "Y")
}

func explained(s spec, features string) bool {
	return slices.ContainsFunc(lacks, func(l lack) bool { return strings.Contains(s.Failure.Message, l.says) && l.true(features) })
}

// result is one run, by what came of each spec.
type result struct {
	passed     int
	failed     []spec
	skipped    []spec // for a reason
	unexpected []spec // skipped for another reason
}

// judge sorts the specs of a run by the runtime of these features.
func judge(specs []spec, features string) result {
	var r result
	for _, s := range specs {
		switch {
		case s.State == "passed":
			if s.Type == "It" {
				r.passed++
			}
		case s.State == "skipped" && s.Failure.Message == "":
			// left out by a filter
		case s.State == "skipped":
			r.skipped = append(r.skipped, s)
			if !explained(s, features) {
				r.unexpected = append(r.unexpected, s)
			}
		default:
			r.failed = append(r.failed, s)
		}
	}
	return r
}

// text is the report for people.
func (r result) text(lane string, took time.Duration) string {
	var w strings.Builder
	fmt.Fprintf(&w, "%-10s %3d passed, %d failed, %d skipped, in %d s\n", lane, r.passed, len(r.failed), len(r.skipped), int(took.Seconds()))
	byReason := map[string][]spec{}
	for _, s := range r.skipped {
		reason := firstLine(s.Failure.Message)
		byReason[reason] = append(byReason[reason], s)
	}
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		fmt.Fprintf(&w, "  skipped %d: %s\n", len(byReason[reason]), reason)
		for _, s := range byReason[reason] {
			fmt.Fprintf(&w, "    %s\n", s.name())
		}
	}
	for _, s := range r.failed {
		fmt.Fprintf(&w, "  FAILED %s\n    %.300s\n", s.name(), brief(s.Failure.Message))
	}
	return w.String()
}

// err is about the specs; runErr counts where they do not explain it.
func (r result) err(runErr error) error {
	var faults []error
	if n := len(r.failed); n > 0 {
		faults = append(faults, fmt.Errorf("%d specs failed", n))
	}
	for _, s := range r.unexpected {
		faults = append(faults, fmt.Errorf("skipped for a reason that is not known: %s: %s", s.name(), firstLine(s.Failure.Message)))
	}
	if r.passed == 0 {
		faults = append(faults, errors.New("no spec passed"))
	}
	if len(faults) == 0 {
		return runErr
	}
	return errors.Join(faults...)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// brief is the part of a failure before the dump of its values, in one line.
func brief(message string) string {
	text, _, _ := strings.Cut(message, "\nUnexpected error:")
	return strings.Join(strings.Fields(text), " ")
}
