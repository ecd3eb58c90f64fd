package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/podwright/podwright/test/cni/lab"
)

// facts are what was seen of one implementation: key → value, in words in which both can say the same.
type facts map[string]string

// scenario is one configuration and what is done with it. The zero value is two pods that come, talk and go.
type scenario struct {
	name    string
	conf    lab.Conf // changes of the plugin's part; nil removes a key
	ipam    lab.Conf // instead of the usual one
	runtime lab.Conf
	args    string
	version string
	network string // its name, when the usual one will not do

	portmap, bandwidth lab.Conf // a further plugin of the reference chain, and keys of ours

	untidy  bool                           // something is meant to be left
	mute    bool                           // nobody talks: chance would have a say in it
	kernel  string                         // an ip command that fails where the kernel lacks what it takes
	ignored bool                           // what it needs is not refused but ignored as long as it is not built
	leaves  []string                       // links of the preparation
	needs   string                         // a feature of ours; see built
	prepare func(r *run)                   // before the first ADD
	pod     func(i int, a *lab.Attachment) // changes what pod i asks for
	instead func(r *run)                   // replaces the course of events
}

// run is one implementation in one scenario.
type run struct {
	t *testing.T
	*lab.Node
	scenario
	chain lab.Chain
	pods  []*lab.NS
	at    []lab.Attachment
	facts facts
	words map[string]string // what is random or differs by design → what it is called in facts
	calls *strings.Replacer // of words
}

const bridgeName = "pw0"

// usual is one IPv4 range with a default route.
func usual() lab.Conf { return ranges("10.88.0.0/24") }

// ranges is an ipam section with one set of one range for each subnet, and default routes for their families.
func ranges(subnets ...string) lab.Conf {
	var sets, routes []any
	seen := map[string]bool{}
	for _, s := range subnets {
		sets = append(sets, []any{lab.Conf{"subnet": s}})
		dst := "0.0.0.0/0"
		if strings.Contains(s, ":") {
			dst = "::/0"
		}
		if !seen[dst] {
			routes = append(routes, lab.Conf{"dst": dst})
		}
		seen[dst] = true
	}
	return lab.Conf{"type": "host-local", "ranges": sets, "routes": routes}
}

// vlanFiltering is there where bridges know VLANs.
const vlanFiltering = "link add probe0 type bridge vlan_filtering 1"

// chains makes the reference chain and ours of a scenario.
func (s scenario) chains(dir string) (ref, our lab.Chain) {
	conf := lab.Conf{"type": "bridge", "bridge": bridgeName, "isGateway": true, "ipam": usual(),
		"capabilities": lab.Conf{"ips": true, "mac": true, "ipRanges": true}}
	if s.ipam != nil {
		conf["ipam"] = s.ipam
	}
	for key, value := range s.conf {
		if value == nil {
			delete(conf, key)
		} else {
			conf[key] = value
		}
	}
	if ipam, ok := conf["ipam"].(lab.Conf); ok && ipam["type"] == "host-local" {
		ipam = maps.Clone(ipam)
		ipam["dataDir"] = filepath.Join(dir, "leases")
		conf["ipam"] = ipam
	}
	name := s.network
	if name == "" {
		name = "net1"
	}
	ref = lab.Chain{Name: name, Version: s.version, Dir: reference, Plugins: []lab.Conf{conf}}
	mine := maps.Clone(conf)
	mine["type"] = "bridge-ipam"
	capabilities := maps.Clone(conf["capabilities"].(lab.Conf))
	for kind, capability := range map[string]string{"portmap": "portMappings", "bandwidth": "bandwidth"} {
		keys := map[string]lab.Conf{"portmap": s.portmap, "bandwidth": s.bandwidth}[kind]
		if keys == nil {
			continue
		}
		capabilities[capability] = true
		maps.Copy(mine, keys)
		keys = maps.Clone(keys)
		keys["type"], keys["capabilities"] = kind, lab.Conf{capability: true}
		ref.Plugins = append(ref.Plugins, keys)
	}
	mine["capabilities"] = capabilities
	our = lab.Chain{Name: name, Version: s.version, Dir: ours, Plugins: []lab.Conf{mine}}
	return ref, our
}

// play lets one implementation go through a scenario, on a node of its own.
func (s scenario) play(t *testing.T, chain func(dir string) lab.Chain) facts {
	t.Helper()
	r := &run{t: t, Node: newNode(t), scenario: s, facts: facts{}, words: map[string]string{}}
	r.chain = chain(r.Dir)
	r.word(r.Dir, "DIR")
	r.word(r.Path(), "NODE")
	for i := range 2 {
		r.newPod(i)
	}
	if s.prepare != nil {
		s.prepare(r)
	}
	if s.instead != nil {
		s.instead(r)
	} else {
		r.course()
	}
	return r.facts
}

func (r *run) newPod(i int) {
	r.t.Helper()
	pod := newPod(r.t)
	a := lab.Attachment{ID: fmt.Sprintf("pod%d", i), NetNS: pod.Path(), Args: r.args, Runtime: r.runtime}
	if r.pod != nil {
		r.pod(i, &a)
	}
	r.pods, r.at = append(r.pods, pod), append(r.at, a)
	r.word(pod.Path(), fmt.Sprintf("NETNS%d", i))
}

// course is how things usually go.
func (r *run) course() {
	added := 0
	for i := range r.pods {
		if r.add(i) {
			added++
		}
	}
	if added == 0 {
		r.leftovers(atTheEnd)
		return
	}
	r.state()
	if !r.mute {
		r.talk()
	}
	for i := range r.pods {
		if r.at[i].Prev != nil {
			r.check(fmt.Sprintf("pod%d CHECK", i), i)
		}
	}
	r.del(0)
	r.leftovers("pod0 DEL")
	r.del(1)
	r.note("pod0 DEL again", r.outcome(r.Del(r.chain, r.at[0])))
	r.leftovers(atTheEnd)
}

// atTheEnd is the key of what is left when all are gone: of ours nothing but the bridge.
const atTheEnd = "at the end"

// must is for the test's own steps.
func (r *run) must(err error) {
	r.t.Helper()
	must(r.t, err)
}

func (r *run) note(key, value string) { r.facts[key] = r.called(value) }

// called replaces what is random by words.
func (r *run) called(text string) string {
	if r.calls == nil {
		words := slices.SortedFunc(maps.Keys(r.words), func(a, b string) int { return len(b) - len(a) })
		var pairs []string
		for _, w := range words {
			pairs = append(pairs, w, r.words[w])
		}
		r.calls = strings.NewReplacer(pairs...)
	}
	text = randomName.ReplaceAllString(r.calls.Replace(text), "VETH")
	return qdiscNumber.ReplaceAllString(text, "qdisc $1")
}

// What is random wherever it shows, or in the reference only, as the port of a VLAN's gateway.
var (
	randomName  = regexp.MustCompile(`veth[0-9a-f]{8,11}|vgw[0-9a-f]{12}`)
	qdiscNumber = regexp.MustCompile(`qdisc (tbf|noqueue) [0-9a-f]+:`)
)

// word hides what is random, unless the scenario asks for it by name.
func (r *run) word(value, as string) {
	for _, asked := range []any{r.args, r.runtime, r.conf} {
		if strings.Contains(fmt.Sprint(asked), value) {
			return
		}
	}
	r.words[value], r.calls = as, nil
}

// outcome says how a call went: fine, or the error's code.
func (r *run) outcome(err error) string {
	var e *lab.Error
	switch {
	case err == nil:
		return "fine"
	case errors.As(err, &e):
		return fmt.Sprintf("error %d", e.Code)
	}
	return err.Error()
}

// add runs ADD and notes the result.
func (r *run) add(i int) bool {
	r.t.Helper()
	key := fmt.Sprintf("pod%d ADD", i)
	prev, err := r.Add(r.chain, r.at[i])
	r.note(key, r.outcome(err))
	if err != nil {
		r.t.Logf("%s: %s: %v", filepath.Base(r.chain.Dir), key, err)
		return false
	}
	r.at[i].Prev = prev
	r.names(i)
	r.result(key, prev)
	return true
}

func (r *run) del(i int) {
	r.t.Helper()
	err := r.Del(r.chain, r.at[i])
	r.note(fmt.Sprintf("pod%d DEL", i), r.outcome(err))
	if err != nil {
		r.t.Logf("%s: DEL: %v", filepath.Base(r.chain.Dir), err)
	}
}

func (r *run) check(key string, i int) {
	r.t.Helper()
	err := r.Check(r.chain, r.at[i])
	verdict := "fine"
	if err != nil {
		verdict = "error"
		r.t.Logf("%s: %s: %v", filepath.Base(r.chain.Dir), key, err)
	}
	r.note(key, verdict)
}

// result notes each leaf of a result. MACs that nobody asked for are words.
func (r *run) result(key string, data json.RawMessage) {
	r.t.Helper()
	var v any
	r.must(json.Unmarshal(data, &v))
	r.leaves(key+" result", v)
}

func (r *run) leaves(key string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			r.leaves(key+"."+k, e)
		}
	case []any:
		for i, e := range v {
			r.leaves(fmt.Sprintf("%s[%d]", key, i), e)
		}
	default:
		r.note(key, fmt.Sprint(v))
	}
}
