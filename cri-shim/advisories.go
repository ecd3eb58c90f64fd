package crishim

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// release is a version of runc.
type release struct{ major, minor, patch int }

func (r release) String() string { return fmt.Sprintf("%d.%d.%d", r.major, r.minor, r.patch) }

// advisories are faults of runc that let a container out or make files on the host, with the first release of each line
// without them. Lines before have no such release, those after never had the fault.
var advisories = []struct {
	names string
	fixed []release
}{
	{"CVE-2024-21626", []release{{1, 1, 12}}},
	{"CVE-2024-45310", []release{{1, 1, 14}, {1, 2, 0}}},
	{"CVE-2025-31133, CVE-2025-52565, CVE-2025-52881", []release{{1, 2, 8}, {1, 3, 3}, {1, 4, 0}}},
	{"CVE-2026-41579", []release{{1, 3, 6}, {1, 4, 3}, {1, 5, 0}}},
}

// runtimeWarning says what is known against the version of an OCI runtime; "" is nothing. Distributions patch old
// versions without changing their number, so that it is a warning and no more.
func runtimeWarning(ctx context.Context, runtime string) string {
	out, err := answerOf(ctx, runtime, "--version")
	if err != nil {
		return fmt.Sprintf("%s --version: %v", runtime, err)
	}
	version, known := knownFaults(string(out))
	if len(known) == 0 {
		return ""
	}
	return fmt.Sprintf("%s is runc %s, which has %s unless its distributor has patched it", runtime, version, strings.Join(known, "; "))
}

var runcVersion = regexp.MustCompile(`(?m)^runc version ((\d+)\.(\d+)\.(\d+)(-\S+?)?(\+\S+)?)$`)

// knownFaults reads what "runc --version" prints. Of other runtimes nothing is known.
func knownFaults(printed string) (version string, known []string) {
	m := runcVersion.FindStringSubmatch(printed)
	if m == nil {
		return "", nil
	}
	var is release
	for i, n := range []*int{&is.major, &is.minor, &is.patch} {
		*n, _ = strconv.Atoi(m[2+i]) // digits; a number beyond all bounds is the newest
	}
	candidate := m[5] != "" // of a release: it comes before it
	for _, a := range advisories {
		if !is.has(a.fixed, candidate) {
			continue
		}
		known = append(known, fmt.Sprintf("%s (fixed in %s)", a.names, list(a.fixed)))
	}
	return m[1], known
}

// has says whether a version comes before the fix of its line.
func (r release) has(fixed []release, candidate bool) bool {
	for _, f := range fixed {
		switch {
		case r.major != f.major || r.minor > f.minor:
			continue
		case r.minor < f.minor:
			return true
		}
		return r.patch < f.patch || r.patch == f.patch && candidate
	}
	return r.major < fixed[0].major
}

func list(all []release) string {
	var out []string
	for _, r := range all {
		out = append(out, r.String())
	}
	return strings.Join(out, ", ")
}
