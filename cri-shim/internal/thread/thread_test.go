package thread

import (
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

func TestScratchLeavesTheProcessAlone(t *testing.T) {
	nettest.RequireRoot(t)
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			err := Scratch(func() error {
				if unix.Gettid() == unix.Getpid() {
					t.Error("runs on the first thread")
				}
				return unix.Unshare(unix.CLONE_NEWUTS)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	after, err := os.Readlink("/proc/self/ns/uts")
	if err != nil || after != before {
		t.Errorf("the process is in %s now, was in %s (%v)", after, before, err)
	}
}

// TestScratchFromTheFirstThread asks from there, which is what a program's main goroutine may do.
func TestScratchFromTheFirstThread(t *testing.T) {
	for range 1000 {
		runtime.LockOSThread()
		first := unix.Gettid() == unix.Getpid()
		err := Scratch(func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("runs on the first thread")
			}
			return nil
		})
		runtime.UnlockOSThread()
		if err != nil {
			t.Fatal(err)
		}
		if first {
			return
		}
		runtime.Gosched()
	}
}
