package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
)

// found returns the finding of one check.
func (h *host) found(t *testing.T, check string) Finding {
	t.Helper()
	for _, f := range h.findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("nothing is said of %s", check)
	return Finding{}
}

func TestSELinux(t *testing.T) {
	for _, c := range []struct {
		host, labels bool
		want         Level
	}{{false, false, OK}, {false, true, OK}, {true, true, OK}, {true, false, Warn}} {
		h := &host{Options: Options{SELinux: c.labels}}
		h.security(hostinfo.Facts{SELinux: c.host})
		if got := h.found(t, "SELinux"); got.Level != c.want {
			t.Errorf("host %t, labels %t: %+v", c.host, c.labels, got)
		}
	}
}

func TestRuntimes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho a runtime 1.0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for warning, want := range map[string]Level{"": OK, "a fault": Warn} {
		h := &host{Options: Options{
			Runtimes: map[string]string{"": file, "none": "/no/such"},
			Features: func(context.Context, string) string { return "with all" },
			Warning:  func(context.Context, string) string { return warning },
		}}
		h.runtimes(t.Context())
		if got := h.found(t, "OCI runtime"); got.Level != want || !strings.Contains(got.Text, "a runtime 1.0; with all") || !strings.Contains(got.Advice, warning) {
			t.Errorf("%q: %+v", warning, got)
		}
		if got := h.found(t, "OCI runtime none"); got.Level != Fail {
			t.Errorf("one that is not there: %+v", got)
		}
	}
}
