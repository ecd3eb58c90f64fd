package criserver

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// faults collects what is wrong with a request, so that one answer names all of it: each fault with
// its field, its value and what would be right.
type faults struct {
	invalid []string
	lacking []string // asked for, valid, and not implemented
}

// bad notes a value that can never be right. It is shown shortened; never pass a secret.
func (f *faults) bad(field string, value any, want string) {
	shown := fmt.Sprint(value)
	if s, ok := value.(string); ok {
		shown = fmt.Sprintf("%q", cut(s))
	}
	f.invalid = append(f.invalid, fmt.Sprintf("%s %s: want %s", field, shown, want))
}

// missing notes a field that must be there.
func (f *faults) missing(field string) {
	f.invalid = append(f.invalid, field+" is missing")
}

// err is nil when all is well. Only the first few faults are told.
func (f *faults) err() error {
	const most = 8
	class, all := error(errdefs.ErrInvalidArgument), f.invalid
	if len(all) == 0 {
		class, all = errdefs.ErrNotImplemented, f.lacking
	}
	switch {
	case len(all) == 0:
		return nil
	case len(all) > most:
		all = append(all[:most:most], fmt.Sprintf("and %d more", len(all)-most))
	}
	return fault{strings.Join(all, "; "), class}
}

// fault is a text with a class; the class's own text would add nothing.
type fault struct {
	text  string
	class error
}

func (f fault) Error() string { return f.text }
func (f fault) Unwrap() error { return f.class }
