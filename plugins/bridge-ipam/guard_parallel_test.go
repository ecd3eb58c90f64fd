package bridgeipam_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestGuardInParallel: pods of two networks come and go at the same time on a node that has no rules yet.
func TestGuardInParallel(t *testing.T) {
	const pods = 12
	n := newNode(t)
	confs := []string{
		n.conf(map[string]any{"macspoofchk": true}),
		n.conf(map[string]any{"macspoofchk": true, "name": "other", "ipam": ranges("10.78.0.0/24"), "isGateway": false, "isDefaultGateway": false}),
	}
	each := func(f func(i int, id, conf string)) {
		var all sync.WaitGroup
		for i := range pods {
			all.Go(func() { f(i, fmt.Sprintf("c%d", i), confs[i%2]) })
		}
		all.Wait()
	}
	namespaces := make([]string, pods)
	for i := range namespaces {
		namespaces[i] = nettest.NewNS(t)
	}
	answers := make([]answer, pods)
	for range 3 {
		each(func(i int, id, conf string) {
			answers[i] = n.run(call{cmd: "ADD", id: id, ifName: "eth0", netns: namespaces[i], conf: conf})
		})
		for i, a := range answers {
			if a.code != 0 {
				t.Fatalf("ADD %d: %s%s", i, a.stdout, a.stderr)
			}
			n.quiet(call{cmd: "CHECK", id: fmt.Sprintf("c%d", i), ifName: "eth0", netns: namespaces[i], conf: withPrev(t, confs[i%2], a.stdout)})
		}
		each(func(i int, id, conf string) {
			answers[i] = n.run(call{cmd: "DEL", id: id, ifName: "eth0", netns: namespaces[i], conf: conf})
		})
		for i, a := range answers {
			if a.code != 0 {
				t.Fatalf("DEL %d: %s%s", i, a.stdout, a.stderr)
			}
		}
		if n.bridgeChains() != 0 {
			t.Errorf("%d chains", n.bridgeChains())
		}
	}
}
