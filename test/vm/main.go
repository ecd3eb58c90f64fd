// Command vm boots a Debian kernel with systemd, cgroup v2 and AppArmor under qemu, without KVM, and runs there, as
// root, one command:
//
//	vm [flags] -- program argument…
//	vm [flags] -lanes e2e,critest
//
// The command finds the source tree and what is built of it in its working directory, /podwright, and leaves what it
// wants to hand back in $RESULTS. vm ends with its exit code.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	image   string
	output  string
	tests   string
	lanes   string
	limit   time.Duration
	cpus    int
	memory  int
	command []string
}

func main() {
	var o options
	flag.StringVar(&o.image, "image", ".cache/machine", "directory of root.ext4, vmlinuz and initrd, which tools/vmimage.sh makes")
	flag.StringVar(&o.output, "output", ".cache/machine/output", "directory for the console and what the command hands back")
	flag.StringVar(&o.tests, "tests", "", "packages whose tests are compiled and handed in, separated by commas, each as DIRECTORY/"+testBinary)
	flag.StringVar(&o.lanes, "lanes", "", "run these test lanes, separated by commas, each in a machine of its own, instead of a command; all: every one")
	flag.DurationVar(&o.limit, "limit", 30*time.Minute, "end the machine after this time")
	flag.IntVar(&o.cpus, "cpus", 2, "processors of the machine")
	flag.IntVar(&o.memory, "memory", 3072, "memory of the machine in MiB")
	flag.Parse()
	o.command = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = 125 // as env(1) and others: it failed itself
	}
	os.Exit(code)
}

func run(ctx context.Context, o options) (int, error) {
	if o.lanes == "" && len(o.command) == 0 {
		return 0, errors.New("want a command after --, such as: vm -- uname -a; or -lanes all")
	}
	if o.lanes == "" {
		return one(ctx, o, job{output: o.output, tests: strings.FieldsFunc(o.tests, func(r rune) bool { return r == ',' }), command: quote(o.command)})
	}
	names, err := chosen(o.lanes)
	if err != nil {
		return 0, err
	}
	var failed []string
	for _, name := range names {
		begin := time.Now()
		fmt.Printf("==== lane %s\n", name)
		err := runLane(ctx, o, name)
		if err != nil {
			failed = append(failed, name)
			fmt.Printf("FAILED lane %s: %v\n", name, err)
		}
		fmt.Printf("==== lane %s took %s\n", name, time.Since(begin).Round(time.Second))
		if ctx.Err() != nil {
			return 1, ctx.Err()
		}
	}
	if len(failed) > 0 {
		return 1, fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return 0, nil
}

// runLane runs one lane; its failure is an error.
func runLane(ctx context.Context, o options, name string) error {
	l, output := lanes[name], filepath.Join(o.output, name)
	var code int
	var err error
	if l.powerCuts {
		code, err = runPowerCuts(ctx, o, output)
	} else {
		code, err = one(ctx, o, job{output: output, tests: l.tests, command: laneCommand(l.command)})
	}
	if err == nil && code != 0 {
		return fmt.Errorf("exit code %d; all that was said is in %s", code, output)
	}
	return err
}

// laneCommand is a script of the functions in lanes.sh.
func laneCommand(script string) string {
	return ". /podwright/.vm/lanes.sh\n" + script + "\nexit $failed\n"
}

// job is what one boot is for.
type job struct {
	output     string
	tests      []string
	command    string
	persistent string // as in machine
	cut        *powerCut
}

// one prepares a machine, boots it and takes what it hands back.
func one(ctx context.Context, o options, j job) (code int, err error) {
	work, err := os.MkdirTemp(".cache", "vm-run-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	m := machine{
		image: o.image, stage: filepath.Join(work, "stage.ext4"), dir: j.output, limit: o.limit,
		cpus: o.cpus, memory: o.memory, output: os.Stdout, persistent: j.persistent, cut: j.cut,
	}
	if err := prepare(ctx, stage{filepath.Join(work, "stage")}, j, m.stage); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return 0, err
	}
	if code, err = m.run(ctx); err != nil {
		return code, err
	}
	return code, unpack(m.dir)
}

func prepare(ctx context.Context, s stage, j job, file string) error {
	if err := errors.Join(s.fill(), s.standIns(ctx), s.script(j.command)); err != nil {
		return err
	}
	dirs, err := packages(j.tests)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := s.buildTest(ctx, dir); err != nil {
			return err
		}
	}
	return s.pack(file)
}

// unpack takes apart what the command has handed back.
func unpack(dir string) error {
	results := filepath.Join(dir, "results")
	if err := errors.Join(os.RemoveAll(results), os.Mkdir(results, 0o755)); err != nil {
		return err
	}
	if out, err := exec.Command("tar", "-xf", results+".tar", "-C", results).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack the results: %w: %s", err, out)
	}
	return nil
}

// quote makes a line for a shell.
func quote(words []string) string {
	var b strings.Builder
	for _, w := range words {
		b.WriteString("'" + strings.ReplaceAll(w, "'", `'\''`) + "' ")
	}
	return "exec " + b.String() + "\n"
}
