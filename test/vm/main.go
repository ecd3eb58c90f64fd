// Command vm boots a Debian kernel with systemd, cgroup v2 and AppArmor under qemu, without KVM, and runs there, as
// root, one command:
//
//	vm [flags] -- program argument…
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

func run(ctx context.Context, o options) (code int, err error) {
	if len(o.command) == 0 {
		return 0, errors.New("want a command after --, such as: vm -- uname -a")
	}
	work, err := os.MkdirTemp(".cache", "vm-run-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	s := stage{filepath.Join(work, "stage")}
	if err := s.fill(); err != nil {
		return 0, err
	}
	for _, pkg := range strings.FieldsFunc(o.tests, func(r rune) bool { return r == ',' }) {
		if err := s.buildTest(ctx, strings.TrimPrefix(pkg, "./")); err != nil {
			return 0, err
		}
	}
	if err := s.script(quote(o.command)); err != nil {
		return 0, err
	}
	m := machine{image: o.image, stage: filepath.Join(work, "stage.ext4"), dir: o.output, limit: o.limit, cpus: o.cpus, memory: o.memory, output: os.Stdout}
	if err := s.pack(m.stage); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return 0, err
	}
	code, err = m.run(ctx)
	if err != nil {
		return code, err
	}
	return code, unpack(m.dir)
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
