package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const report = `[{"SpecReports": [
 {"LeafNodeType": "BeforeSuite", "State": "passed"},
 {"ContainerHierarchyTexts": ["a", "b"], "LeafNodeText": "works", "LeafNodeType": "It", "State": "passed"},
 {"ContainerHierarchyTexts": ["a"], "LeafNodeText": "filtered", "LeafNodeType": "It", "State": "skipped"},
 {"ContainerHierarchyTexts": ["a"], "LeafNodeText": "mapped", "LeafNodeType": "It", "State": "skipped",
  "Failure": {"Message": "no runtime handler found which supports user namespaces"}},
 {"ContainerHierarchyTexts": ["a"], "LeafNodeText": "odd", "LeafNodeType": "It", "State": "skipped", "Failure": {"Message": "not today\nor so"}},
 {"ContainerHierarchyTexts": ["a"], "LeafNodeText": "breaks", "LeafNodeType": "It", "State": "failed",
  "Failure": {"Message": "it\n broke\nUnexpected error: dump"}},
 {"ContainerHierarchyTexts": ["a"], "LeafNodeText": "hangs", "LeafNodeType": "It", "State": "timedout"}
]}]`

func specs(t *testing.T) []spec {
	t.Helper()
	path := filepath.Join(t.TempDir(), reportName)
	if err := os.WriteFile(path, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	all, err := readReport(filepath.Join(filepath.Dir(path), "none*"), path)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestJudge(t *testing.T) {
	r := judge(specs(t), "{}")
	if r.passed != 1 || len(r.failed) != 2 || len(r.skipped) != 2 || len(r.unexpected) != 1 || r.unexpected[0].name() != "a odd" {
		t.Errorf("got %+v", r)
	}
	text := r.text("serial", 3*time.Second)
	for _, want := range []string{"serial", "1 passed, 2 failed, 2 skipped, in 3 s", "skipped 1: not today\n    a odd\n", "FAILED a breaks\n    it broke\n", "FAILED a hangs"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if err := r.err(nil); err == nil || !strings.Contains(err.Error(), "2 specs failed") || !strings.Contains(err.Error(), "a odd: not today") {
		t.Errorf("got %v", err)
	}
}

// TestSkipsMustBeTrue: a spec may not say that the runtime lacks what it has.
func TestSkipsMustBeTrue(t *testing.T) {
	if r := judge(specs(t), `{"mountExtensions": {"idmap": {"enabled": true}}}`); len(r.unexpected) != 2 {
		t.Errorf("got %+v", r.unexpected)
	}
	if err := (result{}).err(nil); err == nil {
		t.Error("nothing ran, and that is well")
	}
}
