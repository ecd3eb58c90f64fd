package server

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
)

// TestReopenOnADiskThatHangs: a log that cannot be written holds up its own container, and not the list of all.
func TestReopenOnADiskThatHangs(t *testing.T) {
	r := record{ID: "c", LogPath: filepath.Join(t.TempDir(), "log")}
	c := newContainer(&Server{}, r)
	hang, hangs := make(chan struct{}), make(chan struct{})
	c.io = &stdio{log: crilog.New(r.log(), func() time.Time { close(hangs); <-hang; return time.Now() })}
	if err := c.io.log.Open(); err != nil {
		t.Fatal(err)
	}
	written, reopened := make(chan int, 1), make(chan error, 1)
	go func() { written <- c.io.log.Write(crilog.Stdout, []byte("x"), false) }()
	<-hangs
	go func() { reopened <- c.reopenLog() }()
	time.Sleep(100 * time.Millisecond)
	listed := make(chan struct{})
	go func() { c.process(); close(listed) }()
	select {
	case <-listed:
	case <-time.After(5 * time.Second):
		t.Error("the container cannot be listed")
	}
	close(hang)
	<-written
	if err := <-reopened; err != nil {
		t.Error(err)
	}
}
