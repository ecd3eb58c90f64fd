// Command cni measures bridge-ipam beside the reference plugins, in one run and in alternation, on nodes made of
// network namespaces. It prints medians, 95th percentiles and ratios. Both are started in the same way, on nodes that
// are the same; the reference is measured with each of its backends.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/test/isolate"
)

// settings are the flags.
type settings struct {
	bin, tools string
	only       string
	rounds     int // of ADD and DEL
	burst      int // pods that come together
	held       int // attachments that are there already
	leases     int // in the store
	trips      int // of a request and its answer
	seconds    int // of throughput
}

// sections are what is measured.
var sections = []struct {
	name, what string
	run        func(*bench) error
}{
	{"masq", "bridge, addresses and masquerade", (*bench).masquerade},
	{"hostport", "and one hostPort", (*bench).hostPort},
	{"burst", "many ADDs, 8 at a time", (*bench).burst},
	{"held", "ADD and DEL beside attachments that are there", (*bench).held},
	{"leases", "ADD and DEL beside leases in the store", (*bench).leases},
	{"path", "what packets see", (*bench).path},
}

func main() {
	var s settings
	var names []string
	for _, sec := range sections {
		names = append(names, sec.name)
	}
	flag.StringVar(&s.bin, "bin", "bin", "directory of bridge-ipam")
	flag.StringVar(&s.tools, "tools", ".cache/tools", "directory of the reference plugins")
	flag.StringVar(&s.only, "only", "", "sections to measure, of "+strings.Join(names, ","))
	flag.IntVar(&s.rounds, "rounds", 80, "ADDs and DELs of each, in alternation")
	flag.IntVar(&s.burst, "burst", 200, "pods that come 8 at a time")
	flag.IntVar(&s.held, "held", 1000, "attachments that are held, against 10; a bridge takes 1023")
	flag.IntVar(&s.leases, "leases", 10000, "leases in the store")
	flag.IntVar(&s.trips, "trips", 5000, "requests and answers on a path")
	flag.IntVar(&s.seconds, "seconds", 15, "seconds of throughput on a path")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench-cni: network namespaces take root; please run: sudo make bench-cni")
		os.Exit(1)
	}
	if code, done, err := isolate.Reexec(); done {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench-cni:", err)
		}
		os.Exit(code)
	}
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "bench-cni:", err)
		os.Exit(1)
	}
}

func run(s settings) (err error) {
	for _, dir := range []*string{&s.bin, &s.tools} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	// A node has /run in memory, and so have all contenders what they write, wherever this host keeps /tmp.
	if err := unix.Mount("tmpfs", os.TempDir(), "tmpfs", 0, "mode=1777"); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", os.TempDir(), err)
	}
	b := &bench{settings: s, stop: make(chan os.Signal, 1)}
	signal.Notify(b.stop, os.Interrupt, syscall.SIGTERM)
	defer b.close()
	for _, sec := range sections {
		if s.only != "" && !strings.Contains(","+s.only+",", ","+sec.name+",") {
			continue
		}
		b.table = &table{title: sec.what}
		if err := sec.run(b); err != nil {
			return fmt.Errorf("%s: %w", sec.name, err)
		}
		b.table.print(os.Stdout)
		b.close()
	}
	return nil
}
