// Package nettest is what tests need of the kernel: the right to use it, and throw-away network namespaces.
package nettest

import (
	"os"
	"testing"
)

// RequireRoot skips a test for a user without root. Where CI is "true" it fails instead, because there a
// skipped test would be a gap that nobody sees.
func RequireRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatal("needs root, and CI must not skip it")
	}
	tb.Skip("needs root")
}
