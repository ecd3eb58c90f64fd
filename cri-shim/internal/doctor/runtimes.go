package doctor

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// runtimes looks at the OCI runtimes.
func (h *host) runtimes(ctx context.Context) {
	for _, handler := range slices.Sorted(maps.Keys(h.Runtimes)) {
		check := "OCI runtime"
		if handler != "" {
			check += " " + handler
		}
		file, err := exec.LookPath(h.Runtimes[handler])
		if err != nil {
			h.say(Fail, check, err.Error(), "Install it, or name another one in the configuration")
			continue
		}
		asked, cancel := context.WithTimeout(ctx, askLimit)
		out, err := exec.CommandContext(asked, file, "--version").Output()
		cancel()
		first, _, _ := strings.Cut(string(out), "\n")
		if err != nil || first == "" {
			h.say(Fail, check, fmt.Sprintf("%s --version: %v", file, err), "See that it is an OCI runtime")
			continue
		}
		text := file + ": " + first + "; " + h.Features(ctx, file)
		if faults := knownFaults(first); len(faults) > 0 {
			h.say(Warn, check, text, "This version is known for "+strings.Join(faults, ", ")+", unless your distribution has mended it: use runc 1.3.6, 1.4.3, 1.5.0 or newer")
			continue
		}
		h.say(OK, check, text, "")
	}
}

// fault is one that runc had, with the first version of each branch without it.
type fault struct {
	names []string
	fixed []version
}

type version struct{ major, minor, patch int }

var faults = []fault{
	{[]string{"CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"}, []version{{1, 2, 8}, {1, 3, 3}, {1, 4, 0}}},
	{[]string{"CVE-2026-41579"}, []version{{1, 3, 6}, {1, 4, 3}, {1, 5, 0}}},
}

var runcVersion = regexp.MustCompile(`^runc version (\d+)\.(\d+)\.(\d+)(-rc)?`)

// knownFaults are those of a runc by the first line of its version. Of other runtimes none is known.
func knownFaults(line string) []string {
	m := runcVersion.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // digits; one too long for an int is no version
	}
	v := version{n[0], n[1], n[2]}
	if m[4] != "" {
		v.patch-- // a candidate comes before it
	}
	var out []string
	for _, f := range faults {
		if !f.mended(v) {
			out = append(out, f.names...)
		}
	}
	return out
}

func (f fault) mended(v version) bool {
	for _, fix := range f.fixed {
		if v.major == fix.major && v.minor == fix.minor {
			return v.patch >= fix.patch
		}
	}
	last := f.fixed[len(f.fixed)-1]
	return v.major > last.major || v.major == last.major && v.minor > last.minor
}
