package doctor

import (
	"fmt"
	"io"
	"strings"
)

// Print writes a report for people.
func (r Report) Print(w io.Writer) error {
	var b strings.Builder
	width := 0
	for _, f := range r.Host {
		width = max(width, len(f.Check))
	}
	for _, f := range r.Host {
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", f.Level, width, f.Check, oneLine(f.Text))
		if f.Advice != "" {
			fmt.Fprintf(&b, "%*s  → %s\n", 6+width, "", f.Advice)
		}
	}
	for _, group := range []struct {
		what    string
		objects []Object
	}{{"left behind", r.Leftovers}, {"missing", r.Missing}} {
		for _, o := range group.objects {
			fmt.Fprintf(&b, "%s  %s: %s %s%s\n", Fail, group.what, o.Kind, o.Name, inBrackets(o.Text))
			if o.Advice != "" {
				fmt.Fprintf(&b, "      → %s\n", o.Advice)
			}
		}
	}
	fmt.Fprintf(&b, "%d left behind, %d missing, of %d sandboxes, %d containers and %d objects\n",
		len(r.Leftovers), len(r.Missing), r.Looked.Sandboxes, r.Looked.Containers, r.Looked.Objects)
	_, err := io.WriteString(w, b.String())
	return err
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
