package crishim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKnownFaults(t *testing.T) {
	for printed, want := range map[string]string{
		"runc version 1.0.3":       "2024 2024 2025 2026",
		"runc version 1.1.11":      "2024 2024 2025 2026",
		"runc version 1.1.12":      "2024 2025 2026",
		"runc version 1.1.14":      "2025 2026",
		"runc version 1.2.0-rc.2":  "2024 2025 2026",
		"runc version 1.1.5+ds1":   "2024 2024 2025 2026",
		"runc version 1.2.7":       "2025 2026",
		"runc version 1.2.8":       "2026",
		"runc version 1.2.99":      "2026",
		"runc version 1.3.3":       "2026",
		"runc version 1.3.5-rc.1":  "2026",
		"runc version 1.3.6":       "",
		"runc version 1.4.0-rc.2":  "2025 2026",
		"runc version 1.4.0":       "2026",
		"runc version 1.4.3-rc.1":  "2026",
		"runc version 1.4.3":       "",
		"runc version 1.5.0-rc.1":  "2026",
		"runc version 1.5.2":       "",
		"runc version 1.10.0":      "",
		"runc version 2.0.0":       "",
		"runc version 0.1.1":       "2024 2024 2025 2026",
		"runc version unknown":     "",
		"crun version 1.8.1":       "",
		"":                         "",
		"text\nrunc version 1.2.8": "2026",
	} {
		_, known := knownFaults(printed + "\ncommit: v1.0.0\nspec: 1.2.0\n")
		var years []string
		for _, k := range known {
			years = append(years, k[len("CVE-"):len("CVE-2024")])
		}
		if got := strings.Join(years, " "); got != want {
			t.Errorf("%q: %q, want %q", printed, got, want)
		}
	}
}

func TestRuntimeWarning(t *testing.T) {
	old := filepath.Join(t.TempDir(), "old")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho runc version 1.2.8\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := runtimeWarning(t.Context(), old); !strings.Contains(got, old+" is runc 1.2.8") || !strings.Contains(got, "CVE-2026-41579 (fixed in 1.3.6, 1.4.3, 1.5.0)") {
		t.Errorf("got %q", got)
	}
	if got := runtimeWarning(t.Context(), "/bin/false"); !strings.Contains(got, "/bin/false --version") {
		t.Errorf("got %q", got)
	}
	if got := runtimeWarning(t.Context(), "/bin/true"); got != "" {
		t.Errorf("got %q", got)
	}
}
