package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/podwright/podwright/test/node"
)

// lane is one run of the suite.
type lane struct {
	name      string
	args      []string
	handler   string
	benchmark bool
}

var allLanes = map[string]lane{
	"serial":    {},
	"parallel":  {args: []string{"-parallel=2"}},
	"handler":   {args: []string{"-runtime-handler=" + otherHandler}, handler: otherHandler},
	"websocket": {args: []string{"-websocket-exec", "-websocket-attach", "-websocket-portforward", "-ginkgo.focus=Streaming"}},
	"benchmark": {args: []string{"-benchmark"}, benchmark: true},
}

const reportName = "report.json"

// suite runs critest against a node.
type suite struct {
	node    *node.Node
	options options
	binary  string
	// runtimes are the paths of the OCI runtimes by handler.
	runtimes map[string]string
}

// features is what an OCI runtime says that it can; nothing, when it does not know the question.
func features(runtime string) string {
	out, _ := exec.Command(runtime, "features").Output()
	return string(out)
}

// all runs every lane, also after one that failed.
func (s *suite) all(ctx context.Context, lanes []lane) error {
	var faults []error
	for _, l := range lanes {
		if err := s.run(ctx, l); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", l.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(faults) > 0 && s.options.output != "" {
		path := filepath.Join(s.options.output, "cri-shim.log")
		faults = append(faults, os.WriteFile(path, []byte(s.node.ShimLog()), 0o644))
	}
	return errors.Join(faults...)
}

func (s *suite) run(ctx context.Context, l lane) error {
	dir, err := s.outputDir(l.name)
	if err != nil {
		return err
	}
	begin := time.Now()
	runErr := s.execute(ctx, l, dir)
	specs, err := readReport(filepath.Join(dir, reportName), filepath.Join(s.tmp(l), "cri-test*", reportName))
	if err != nil {
		tail, _ := os.ReadFile(filepath.Join(dir, "output"))
		return fmt.Errorf("%w: %w\n%s", runErr, err, tail[max(0, len(tail)-4096):])
	}
	r := judge(specs, features(s.runtimes[l.handler]))
	fmt.Print(r.text(l.name, time.Since(begin)))
	if l.benchmark {
		return errors.Join(runErr, showBenchmarks(dir))
	}
	return r.err(runErr)
}

// tmp is for what the suite leaves in the directory for temporary files. ginkgo, which the suite runs for itself when
// it is to be parallel, puts the report there.
func (s *suite) tmp(l lane) string { return filepath.Join(s.node.Base, "tmp-"+l.name) }

func (s *suite) outputDir(lane string) (string, error) {
	parent := s.options.output
	if parent == "" {
		parent = s.node.Base
	}
	dir, err := filepath.Abs(filepath.Join(parent, "critest-"+lane))
	if err != nil {
		return "", err
	}
	if err := os.Remove(filepath.Join(dir, reportName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err // an older one must not stand for this run
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// execute runs critest to its end. Its failure is told by the report; the error is for a run without one.
func (s *suite) execute(ctx context.Context, l lane, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.limit)
	defer cancel()
	out, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return err
	}
	defer out.Close()
	args := append([]string{
		// Both: critest reads the host's crictl.yaml before its flags, -config included, which would lead it elsewhere.
		"-runtime-endpoint=unix://" + s.node.Socket, "-image-endpoint=unix://" + s.node.Socket,
		"-ginkgo.no-color", "-ginkgo.json-report=" + reportName,
	}, l.args...)
	if s.options.focus != "" {
		args = append(args, "-ginkgo.focus="+s.options.focus)
	}
	if s.options.skip != "" {
		args = append(args, "-ginkgo.skip="+s.options.skip)
	}
	if l.benchmark {
		params, err := writeBenchmark(dir)
		if err != nil {
			return err
		}
		args = append(args, params...)
	}
	tools, err := filepath.Abs(s.options.programs.Tools)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.tmp(l), 0o777); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "TMPDIR="+s.tmp(l))
	cmd.Stdout, cmd.Stderr = out, out
	// ginkgo has children, which end with their group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run critest: %w", errors.Join(err, ctx.Err()))
	}
	return nil
}
