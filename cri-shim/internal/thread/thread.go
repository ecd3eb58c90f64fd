// Package thread runs work that changes what belongs to one thread alone: its namespaces, its working directory,
// its ids. Such a thread is not used again.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Scratch runs f on a thread that ends with it, and returns what f returns. It is never the first thread of the
// process: that one cannot end, and what /proc/self shows of the process is its.
func Scratch(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		defer runtime.UnlockOSThread()
		done <- Scratch(f) // this thread is taken, so that another one is found
	}()
	return <-done
}
