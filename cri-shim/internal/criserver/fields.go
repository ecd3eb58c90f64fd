package criserver

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

const (
	maxName     = 253       // of a Kubernetes object
	maxHostname = 64        // HOST_NAME_MAX
	maxMetadata = 512 << 10 // labels or annotations together; they are in a record that is written often
	maxID       = 1<<31 - 1 // of a user or a group
	maxPort     = 1<<16 - 1
)

// hasControl finds what would begin a new line or field in a file that people and programs read.
func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

func hasSpace(s string) bool { return strings.ContainsFunc(s, unicode.IsSpace) || hasControl(s) }

func hasDotDot(p string) bool { return slices.Contains(strings.Split(p, "/"), "..") }

// name checks a part of a pod's or container's identity. ';' and '=' separate CNI arguments, '/'
// separates paths.
func (f *faults) name(field, v string) {
	switch {
	case v == "":
		f.missing(field)
	case len(v) > maxName:
		f.bad(field, v, fmt.Sprintf("at most %d bytes", maxName))
	case v == "." || v == ".." || strings.ContainsAny(v, "/;=") || hasControl(v):
		f.bad(field, v, "a name without '/', ';', '=' and control characters")
	}
}

func (f *faults) hostname(field, v string) {
	if len(v) > maxHostname || hasSpace(v) || strings.Contains(v, "/") {
		f.bad(field, v, fmt.Sprintf("a host name of at most %d bytes", maxHostname))
	}
}

// words checks values that end up on a line of a file, separated by spaces.
func (f *faults) words(field string, vs []string) {
	for i, v := range vs {
		if v == "" || hasSpace(v) {
			f.bad(fmt.Sprintf("%s[%d]", field, i), v, "a value without white space")
		}
	}
}

func (f *faults) noNUL(field string, vs []string) {
	for i, v := range vs {
		if strings.ContainsRune(v, 0) {
			f.bad(fmt.Sprintf("%s[%d]", field, i), v, "a value without NUL")
		}
	}
}

// absolute checks a path that must begin with '/' and must not climb.
func (f *faults) absolute(field, v string) {
	if !path.IsAbs(v) || hasDotDot(v) || hasControl(v) {
		f.bad(field, v, `an absolute path without ".."`)
	}
}

// relative checks a path below another one.
func (f *faults) relative(field, v string) {
	if path.IsAbs(v) || hasDotDot(v) || hasControl(v) || path.Clean(v) == "." {
		f.bad(field, v, `a relative path without ".."`)
	}
}

// workingDir refuses directories that lead out of a container through an open descriptor.
func (f *faults) workingDir(field, v string) {
	if v == "" {
		return
	}
	f.absolute(field, v)
	if throughFD.MatchString(path.Clean(v)) {
		f.bad(field, v, "a directory of the container, not one reached through a file descriptor")
	}
}

var throughFD = regexp.MustCompile(`^/(dev/fd|proc/[^/]+/(task/[^/]+/)?(fd|root|cwd))(/|$)`)

func (f *faults) metadata(field string, m map[string]string) {
	size := 0
	for k, v := range m {
		size += len(k) + len(v)
	}
	if size > maxMetadata {
		f.bad(field, fmt.Sprintf("of %d bytes", size), fmt.Sprintf("at most %d bytes together", maxMetadata))
	}
}

func (f *faults) within(field string, v, low, high int64) {
	if v < low || v > high {
		f.bad(field, v, fmt.Sprintf("a number from %d to %d", low, high))
	}
}

func (f *faults) matches(field, v string, form *regexp.Regexp, want string) {
	if v != "" && !form.MatchString(v) {
		f.bad(field, v, want)
	}
}

// id checks that a request names something at all. What it names is looked up as it is: an id of a
// wrong form is one that nothing has.
func (f *faults) id(field, v string) {
	if v == "" {
		f.missing(field)
	}
}

// plausible says whether v can be an id or the beginning of one; only such a one is looked up.
func plausible(v string) bool { return idForm.MatchString(v) }

var idForm = regexp.MustCompile(`^[0-9a-f]{1,64}$`)
