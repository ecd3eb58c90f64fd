// Package doctor looks whether a host can run pods, and whether anything on it carries our names and belongs to no
// record, or the other way round. It never changes anything, and asks nobody to.
//
// It needs nobody's word for what is at work: a record is on disk before the first thing that it explains is made,
// and until the last one is gone. What is there in two looks, and has no record in either, nor between them, is left
// behind; since the kernel removes some things in the background, it looks again until patience ends.
//
// Crash story: none; it keeps nothing.
package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/podnet"
)

// Level is how bad a finding is.
type Level string

// The levels. Only Fail counts as a finding for the exit code.
const (
	OK   Level = "ok"
	Warn Level = "warn" // something cannot be had on this host, and whoever asks for it is refused
	Fail Level = "fail"
)

// Finding is one line of a report.
type Finding struct {
	Level  Level  `json:"level"`
	Check  string `json:"check"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"` // what to do about it
}

// Report is all that was found.
type Report struct {
	Host []Finding `json:"host"`
	// Leftovers belong to no record; Missing are records without what they tell of. Both are empty, never null.
	Leftovers []Object `json:"leftovers"`
	Missing   []Object `json:"missing"`
	// Looked is what was looked at in vain or not: numbers of records and objects.
	Looked Looked `json:"looked"`
}

// Looked counts what was seen in the last look.
type Looked struct {
	Sandboxes  int `json:"sandboxes"`
	Containers int `json:"containers"`
	Objects    int `json:"objects"`
}

// Findings is the number of lines that somebody has to do something about.
func (r Report) Findings() int {
	n := len(r.Leftovers) + len(r.Missing)
	for _, f := range r.Host {
		if f.Level == Fail {
			n++
		}
	}
	return n
}

// Options say where to look, and whom to ask.
type Options struct {
	Layout       paths.Layout
	Network      podnet.Options
	CgroupParent string            // of pods that name none: a path, or a slice
	Runtimes     map[string]string // handler → program, as configured
	Socket       string
	ConfigFile   string // that the rest was read from; "" when there is none
	// Patience is how long what belongs to no record may take to go.
	Patience time.Duration

	SELinux bool // labels are set where the host has it

	// Features says what an OCI runtime at a path can do, in words, and Warning what is known against it; "" is nothing.
	Features func(ctx context.Context, runtime string) string
	Warning  func(ctx context.Context, runtime string) string
	// Server names who serves the CRI on the socket, Monitor the monitor's version and process.
	Server  func(ctx context.Context, socket string) (name, version string, err error)
	Monitor func(ctx context.Context, l paths.Layout) (version string, pid int64, err error)
	// MonitorBinary is where a monitor would be started from.
	MonitorBinary func() (string, error)
}

// pause is the time between two looks.
const pause = 250 * time.Millisecond

// Examine looks at everything. An error says that something could not be looked at.
func Examine(ctx context.Context, o Options) (Report, error) {
	in, err := podnet.Inspect(ctx, o.Network)
	if err != nil {
		return Report{}, fmt.Errorf("look at the pod network: %w", err)
	}
	mounts, err := cgroupfs.Find()
	if err != nil {
		return Report{}, err
	}
	h := &host{Options: o, network: in, cgroups: mounts}
	r := Report{Host: h.examine(ctx), Leftovers: []Object{}, Missing: []Object{}}
	looks, err := looksOf(ctx, o, in)
	if err != nil {
		return r, err
	}
	last := looks[len(looks)-1]
	r.Leftovers = append(r.Leftovers, leftovers(looks)...)
	r.Missing = append(r.Missing, missing(looks)...)
	r.Looked = Looked{len(last.sandboxes), len(last.containers), len(last.objects)}
	r.Host = append(r.Host, h.records(last)...)
	return r, nil
}

// looksOf looks once when all is explained, else again until it is, or patience ends.
func looksOf(ctx context.Context, o Options, in podnet.Inspection) ([]look, error) {
	s := &scanner{Options: o, network: in}
	var looks []look
	for end := time.Now().Add(o.Patience); ; {
		l, err := s.look(ctx)
		if err != nil {
			return nil, err
		}
		looks = append(looks, l)
		if len(leftovers(looks))+len(missing(looks)) == 0 || len(looks) > 1 && time.Now().After(end) {
			return looks, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func sorted(m map[string]Object) []Object {
	var out []Object
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[key])
	}
	return out
}
