package netutil

import (
	"net"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

const titles = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
`

func TestParseCounters(t *testing.T) {
	got, err := parseCounters(titles + `    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0:18446744073709551615   2    3    4    5     6          7         8        9       10   11   12   13    14      15         16
a.b-c_d@long1:1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0
`)
	want := []Counters{
		{Name: "lo"},
		{Name: "eth0", RxBytes: 1<<64 - 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 9, TxPackets: 10, TxErrors: 11, TxDropped: 12},
		{Name: "a.b-c_d@long1", RxBytes: 1, TxBytes: 2},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, bad := range []string{"eth0: 1 2 3", "eth0: a 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0"} {
		if _, err := parseCounters(titles + bad); !errdefs.IsDataLoss(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestCounters counts what lo carries in a namespace of its own.
func TestCounters(t *testing.T) {
	inNS(t, func(t *testing.T, h *Handle, peer *NS) {
		before, err := h.ns.Counters()
		ok(t, err)
		if len(before) != 1 || before[0].Name != "lo" || before[0].RxBytes != 0 {
			t.Fatalf("got %+v", before)
		}
		ok(t, h.ns.Do(func() error {
			conn, err := net.Dial("udp", "127.0.0.1:9")
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			_, err = conn.Write(make([]byte, 1000))
			return err
		}))
		after, err := h.ns.Counters()
		ok(t, err)
		if after[0].TxBytes < 1000 || after[0].TxPackets < 1 || after[0].RxBytes < 1000 {
			t.Errorf("1000 bytes sent, got %+v", after)
		}
	})
}
