//go:build tools

// Package tools pins the programs that the tests run. critest is a test binary, which a tool line cannot name;
// these are what it is linked from.
package tools

import (
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
