package cni

import (
	"flag"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podwright/podwright/test/cni/lab"
)

// TestBesideReference lets the reference chain and ours go through the same scenarios. What differs and is not in
// the table of differences fails, and so does an entry of the table that nothing needs any more.
func TestBesideReference(t *testing.T) {
	requireRoot(t)
	var used, compared sync.Map
	t.Run("scenarios", func(t *testing.T) {
		seen := map[string]bool{}
		for _, s := range slices.Concat(bridges, addresses, details, lives, damages, published, shaped, roles) {
			if seen[s.name] {
				t.Fatalf("two scenarios are called %q", s.name)
			}
			seen[s.name] = true
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				s.compare(t, &used)
				compared.Store(s.name, true) // the kernel has what it takes
			})
		}
	})
	if t.Failed() || testing.Short() || t.Skipped() {
		return
	}
	for i, d := range differences {
		if _, ok := used.Load(i); !ok && d.applies() && d.concerns(&compared) && !filtered() {
			t.Errorf("difference %q in %q does not occur: remove it", d.key, d.scenario)
		}
	}
}

func (s scenario) compare(t *testing.T, used *sync.Map) {
	if s.kernel != "" {
		if err := newPod(t).Batch(s.kernel); err != nil {
			t.Skipf("this kernel has it not: %v", err)
		}
	}
	ours := s.play(t, func(dir string) lab.Chain { _, c := s.chains(dir); return c })
	if s.needs != "" && !built[s.needs] {
		if !s.ignored && ours["pod0 ADD"] != "error 2" {
			t.Errorf("%s is not built: ADD is %q, want code 2; when it is built now, say so in built", s.needs, ours["pod0 ADD"])
		}
		return
	}
	if !s.untidy {
		s.clean(t, ours)
	}
	theirs := s.play(t, func(dir string) lab.Chain { c, _ := s.chains(dir); return c })
	for _, key := range comparable(theirs, ours) {
		want, got := shown(theirs, key), shown(ours, key)
		if want == got {
			continue
		}
		i := slices.IndexFunc(differences, func(d difference) bool { return d.matches(s.name, key, want, got) })
		if i < 0 {
			t.Errorf("%s: reference %q, ours %q", key, want, got)
			continue
		}
		used.Store(i, true)
		t.Logf("%s: reference %q, ours %q: %s", key, want, got, differences[i].reason)
	}
}

// comparable lists what can be compared: all, unless an ADD worked for one and not for the other.
func comparable(theirs, ours facts) []string {
	all := maps.Clone(theirs)
	maps.Copy(all, ours)
	keys := slices.Sorted(maps.Keys(all))
	for _, add := range []string{"pod0 ADD", "pod1 ADD"} {
		if (shown(theirs, add) == "fine") != (shown(ours, add) == "fine") {
			return slices.DeleteFunc(keys, func(key string) bool { return !strings.HasSuffix(key, " ADD") })
		}
	}
	return keys
}

// clean expects that ours leaves nothing when all are gone, whatever the reference does.
func (s scenario) clean(t *testing.T, f facts) {
	t.Helper()
	for what, want := range map[string][]string{"leases": {""}, "nftables objects": {"0"}, "links": append(s.leaves, "", bridgeName)} {
		if got, ok := f[atTheEnd+" leaves "+what]; ok && !slices.Contains(want, got) {
			t.Errorf("at the end, %s are left: %s", what, got)
		}
	}
}

func shown(f facts, key string) string {
	if v, ok := f[key]; ok {
		return v
	}
	return "–"
}

// difference is one that is meant, with the reason. All four are regular expressions, matched as a whole; empty
// matches all.
type difference struct {
	scenario, key string
	theirs, ours  string
	reason        string
	needs         string // see built
}

func (d difference) matches(scenario, key, theirs, ours string) bool {
	for _, m := range [][2]string{{d.scenario, scenario}, {d.key, key}, {d.theirs, theirs}, {d.ours, ours}} {
		if m[0] != "" && !whole(m[0]).MatchString(m[1]) {
			return false
		}
	}
	return true
}

var compiled sync.Map

func whole(pattern string) *regexp.Regexp {
	if re, ok := compiled.Load(pattern); ok {
		return re.(*regexp.Regexp)
	}
	re := regexp.MustCompile("^(?:" + pattern + ")$")
	compiled.Store(pattern, re)
	return re
}

// applies says whether the feature is built that a difference comes with, or with "!" goes with.
func (d difference) applies() bool {
	feature, without := strings.CutPrefix(d.needs, "!")
	return feature == "" || built[feature] != without
}

// concerns says whether one of the scenarios is what a difference is about.
func (d difference) concerns(scenarios *sync.Map) (yes bool) {
	scenarios.Range(func(name, _ any) bool {
		yes = d.scenario == "" || whole(d.scenario).MatchString(name.(string))
		return !yes
	})
	return yes
}

// filtered says whether go test -run left scenarios out.
func filtered() bool {
	return strings.Contains(flag.Lookup("test.run").Value.String(), "/")
}

// waitForLinks waits until the node has so many links beside its own: the kernel clears a namespace up behind us.
func (r *run) waitForLinks(want int) {
	r.t.Helper()
	for range 200 {
		links, err := linksOf(r.NS)
		r.must(err)
		if len(links)-2 == want {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.t.Fatalf("there are not %d links", want)
}

// hostLink is the name of pod i's host end.
func (r *run) hostLink(i int) string {
	r.t.Helper()
	for word, as := range r.words {
		if as == fmt.Sprintf("HOST%d", i) {
			return word
		}
	}
	r.t.Fatalf("pod%d has no host link", i)
	return ""
}
