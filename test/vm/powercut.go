package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// cutMarker is the line of a machine's output upon which its power may fail.
const cutMarker = "CUT ME OFF"

// fuse ends a machine some time after it has said the marker.
type fuse struct {
	io.Writer
	after time.Duration
	blow  func()
	once  sync.Once
	seen  []byte
}

func (f *fuse) Write(p []byte) (int, error) {
	f.seen = append(f.seen, p...)
	if bytes.Contains(f.seen, []byte(cutMarker)) {
		f.once.Do(func() { time.AfterFunc(f.after, f.blow) })
	}
	f.seen = f.seen[max(0, len(f.seen)-len(cutMarker)):]
	return f.Writer.Write(p)
}

// powerCuts are the times that a machine works on before its power fails, from removals to starts and pulls.
var powerCuts = []time.Duration{0, 1500 * time.Millisecond, 7 * time.Second}

// runPowerCuts lets machines that share one disk work until they are cut off, each followed by one that checks.
func runPowerCuts(ctx context.Context, o options, output string) (code int, err error) {
	work, err := os.MkdirTemp(".cache", "vm-disk-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	disk := filepath.Join(work, "persistent.ext4")
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", disk, "3G").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("make the disk that stays: %w: %s", err, out)
	}
	for i, after := range powerCuts {
		name := fmt.Sprintf("cut%d", i)
		fmt.Printf("== power cut %s after %q\n", after, cutMarker)
		working := job{output: filepath.Join(output, name), command: laneCommand("work"), persistent: disk, cut: &powerCut{after}}
		if _, err := one(ctx, o, working); !errors.Is(err, errPowerCut) {
			return 1, fmt.Errorf("the machine was to work until it is cut off: %w", err)
		}
		found, err := one(ctx, o, job{output: filepath.Join(output, name+"-check"), command: laneCommand("check"), persistent: disk})
		if err != nil {
			return 1, err
		}
		code = max(code, found)
	}
	return code, nil
}

// powerCut says when a machine is cut off.
type powerCut struct{ after time.Duration }
