package runc

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/cri-shim/internal/proc"
)

// TestClassify has the words of runc 1.1, runc 1.5 and crun 1.8.
func TestClassify(t *testing.T) {
	r := Runtime{Root: "/state/runc"}
	for name, c := range map[string]struct {
		verb, text string
		want       error
	}{
		"runc: no such container":     {"delete", "container does not exist", errdefs.ErrNotFound},
		"crun: delete of nothing":     {"delete", "cannot open directory '/state/runc/c1': No such file or directory", errdefs.ErrNotFound},
		"crun: state of nothing":      {"state", "error opening file `/state/runc/c1/status`: No such file or directory", errdefs.ErrNotFound},
		"crun: something else is not": {"delete", "cannot open directory '/sys/fs/cgroup/c1': No such file or directory", nil},
		"stopped":                     {"exec", "cannot exec in a stopped container", errdefs.ErrFailedPrecondition},
		"no such command":             {"exec", `exec: "nope": executable file not found in $PATH`, ErrStart},
		"crun: no such command":       {"run", "executable file `nope` not found in $PATH: No such file or directory", ErrStart},
		"run with a missing path":     {"run", "error opening file `/state/runc/c1/status`: No such file or directory", ErrStart},
	} {
		err := r.classify(c.verb, proc.Status{Code: 1}, []string{c.text})
		if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if c.want == nil && (errors.Is(err, errdefs.ErrNotFound) || errors.Is(err, ErrStart)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
