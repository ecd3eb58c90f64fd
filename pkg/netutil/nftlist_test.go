package netutil

import (
	"fmt"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestChainsWhileOthersChange: the kernel counts where it is in a list that takes more than one answer, so that a chain
// of another table that goes meanwhile has it pass over one, and a new one has it tell one twice.
func TestChainsWhileOthersChange(t *testing.T) {
	ns, stop, done := nettest.NewNS(t), make(chan struct{}), make(chan struct{})
	const many = 1000
	ready := make(chan struct{})
	go func() {
		defer close(done)
		nettest.In(t, ns, func() error {
			others, err := OpenNft("others")
			if err != nil {
				return err
			}
			defer func() { _ = others.Close() }()
			others.AddTable()
			for err = others.Commit(); err == nil; err = others.Commit() {
				others.AddChain("comes")
				if err = others.Commit(); err != nil {
					return err
				}
				select {
				case <-stop:
					return nil
				case ready <- struct{}{}:
				case <-time.After(5 * time.Millisecond):
				}
				others.DeleteChain("comes")
			}
			return err
		})
	}()
	<-ready
	nettest.In(t, ns, func() error {
		defer func() { close(stop); <-done }()
		ours, err := OpenNft("ours")
		if err != nil {
			return err
		}
		defer func() { _ = ours.Close() }()
		ours.AddTable()
		for i := range many {
			ours.AddChain(fmt.Sprintf("chain-%d", i))
			if i%100 < 99 { // the answers to one commit have to fit into the socket
				continue
			}
			if err := ours.Commit(); err != nil {
				return err
			}
		}
		for range 100 {
			chains, err := ours.Chains()
			if err != nil {
				return err
			}
			if len(chains) != many {
				return fmt.Errorf("%d chains, want %d", len(chains), many)
			}
		}
		return nil
	})
}
