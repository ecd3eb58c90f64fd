package main

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
)

// lane is one boot of the machine and what runs in it.
type lane struct {
	tests   []string // packages, as go list takes them
	command string   // of bash, with the functions of lanes.sh
	// powerCuts boots several machines on one disk, and has no command of its own.
	powerCuts bool
}

// lanes are what make test-vm runs. Each is told in the output by its tests, one line each.
var lanes = map[string]lane{
	"unit-cni":    {tests: []string{"./pkg/...", "./plugins/..."}, command: "units"},
	"unit-cri":    {tests: []string{"./cri-shim/..."}, command: "units"},
	"e2e":         {tests: []string{"./test/e2e"}, command: "tests test/e2e"},
	"e2e-systemd": {tests: []string{"./test/e2e"}, command: "PODWRIGHT_CGROUP_DRIVER=systemd tests test/e2e"},
	"cni":         {tests: []string{"./test/cni"}, command: "tests test/cni"},
	"powercut":    {powerCuts: true},
	"services":    {command: "services"},
	"critest":     {command: "suite serial"},
	"critest-systemd": {
		command: "PODWRIGHT_CGROUP_DRIVER=systemd suite handler",
	},
}

func chosen(names string) ([]string, error) {
	all := slices.Sorted(maps.Keys(lanes))
	if names == "all" {
		return all, nil
	}
	list := strings.Split(names, ",")
	for _, name := range list {
		if _, ok := lanes[name]; !ok {
			return nil, fmt.Errorf("lane %q: want %s", name, strings.Join(all, ", "))
		}
	}
	return list, nil
}

// packages are the directories, below the current one, of packages that have tests.
func packages(patterns []string) ([]string, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	args := []string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}"}
	for _, p := range patterns {
		args = append(args, "./"+strings.TrimPrefix(p, "./"))
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages of %v: %w", patterns, err)
	}
	var dirs []string
	for _, pkg := range strings.Fields(string(out)) {
		dirs = append(dirs, strings.TrimPrefix(pkg, "github.com/podwright/podwright/"))
	}
	return dirs, nil
}
