package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/podwright/podwright/test/leftovers"
)

// countMarks tells a program that it is to count what the kernel has, in place of what it does otherwise.
const countMarks = "PODWRIGHT_COUNT_MARKS"

// Counting is for main functions: it says whether the program was started by Count, and has then written what it was asked for.
func Counting() (bool, error) {
	marks := os.Getenv(countMarks)
	if marks == "" {
		return false, nil
	}
	state, err := leftovers.Take(strings.Split(marks, " "))
	if err != nil {
		return true, err
	}
	return true, json.NewEncoder(os.Stdout).Encode(state)
}

// Count is what the kernel has on the node of pods and their containers, as this program sees it when it runs there. Rules of
// kube-proxy and cgroups of others are not counted.
func (n *Node) Count(ctx context.Context) (leftovers.State, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := n.Command(ctx, self)
	cmd.Env = append(os.Environ(), countMarks+"="+n.Cgroup+"/")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("count on %s: %w", n.Name, err)
	}
	var state leftovers.State
	if err := json.Unmarshal(out, &state); err != nil {
		return nil, err
	}
	for what := range state["cgroups"] {
		if !strings.Contains(what, n.Cgroup+"/") {
			delete(state["cgroups"], what)
		}
	}
	rules := map[string]bool{}
	for what := range state["nftables objects"] {
		if !strings.Contains(what, `"table": "kube-proxy"`) && !strings.Contains(what, `"name": "kube-proxy"`) {
			rules[counters.ReplaceAllString(what, "")] = true
		}
	}
	state["nftables objects"] = rules
	return state, nil
}

// counters are what changes of a rule by itself.
var counters = regexp.MustCompile(`"(packets|bytes)": \d+`)

// Left waits until nothing is there of a cluster that was in a directory and was ended, for as long as patience lasts, and says what is.
func Left(dir string, patience time.Duration) ([]string, error) {
	mark := "/" + filepath.Base(dir)
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		state, err := leftovers.Take(leftovers.Marks{mark + "/"})
		if err != nil {
			return nil, err
		}
		var left []string
		for kind, objects := range state {
			for what := range objects {
				if kind == "processes" || strings.Contains(what, mark) {
					left = append(left, kind+": "+what)
				}
			}
		}
		if len(left) == 0 || time.Now().After(end) {
			return left, nil
		}
	}
}

// Since is what the node has more than before; it waits for nothing to be for as long as patience lasts.
func (n *Node) Since(ctx context.Context, before leftovers.State, patience time.Duration) (leftovers.State, error) {
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		now, err := n.Count(ctx)
		if err != nil {
			return nil, err
		}
		if left := now.New(before); left.Empty() || time.Now().After(end) {
			return left, nil
		}
	}
}
