package netutil

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Counters are what one interface has carried since it was made.
type Counters struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Counters reads the counters of all interfaces in the namespace, in the kernel's order (proc_pid_net(5)). It
// sends no message: one file is read on a thread inside.
func (n *NS) Counters() ([]Counters, error) {
	var data []byte
	err := n.Do(func() (err error) {
		data, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read interface counters: %w", classify(err))
	}
	return parseCounters(string(data))
}

// parseCounters reads the table: two lines of titles, then "name: 8 numbers received, 8 sent".
func parseCounters(table string) ([]Counters, error) {
	var out []Counters
	for line := range strings.Lines(table) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue // a title
		}
		words := strings.Fields(rest)
		const rx, tx, all = 0, 8, 16
		if len(words) < all {
			return nil, fmt.Errorf("interface counters: %d numbers in %q: %w", len(words), line, errdefs.ErrDataLoss)
		}
		var n [all]uint64
		for i := range n {
			v, err := strconv.ParseUint(words[i], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("interface counters: %q is not a number: %w", words[i], errdefs.ErrDataLoss)
			}
			n[i] = v
		}
		out = append(out, Counters{
			Name:    strings.TrimSpace(name),
			RxBytes: n[rx], RxPackets: n[rx+1], RxErrors: n[rx+2], RxDropped: n[rx+3],
			TxBytes: n[tx], TxPackets: n[tx+1], TxErrors: n[tx+2], TxDropped: n[tx+3],
		})
	}
	return out, nil
}
