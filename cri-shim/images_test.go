package crishim

import "testing"

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a/b:1", "a/b:1", true},
		{"a/b:1", "a/b:12", false},
		{"a/b:*", "a/b:1", true},
		{"a/b:*", "a/c:1", false},
		{"a/*:1", "a/b/c:1", true},
		{"a/*:1", "a/b:2", false},
		{"a/*b*:*", "a/xbx:1", true},
		{"a/*b*c*:1", "a/xcxb:1", false},
		{"*/b@sha256:*", "a/b@sha256:00", true},
		{"a/b*b", "a/b", false},
		{"a/**", "a/b", true},
	} {
		if got := matches(c.pattern, c.name); got != c.want {
			t.Errorf("%s of %s: %t", c.pattern, c.name, got)
		}
	}
}
