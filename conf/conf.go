// Package conf holds the samples that are shipped. A program that shows one embeds it from here, so that
// there is one text; a test parses each.
package conf

import _ "embed" // for the samples

// CRIShim is the configuration of cri-shim with every key, its default and what it does.
//
//go:embed cri-shim.toml
var CRIShim string
