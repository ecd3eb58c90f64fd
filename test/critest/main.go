// Command critest runs the conformance suite of the CRI against cri-shim, offline and unmodified but for the digest
// of one image (see pin), and says what failed and what was skipped, and why. It makes a node of its own and leaves
// nothing.
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
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/test/images"
	"github.com/podwright/podwright/test/node"
)

// otherHandler is the name of a runtime handler that is not the default one.
const otherHandler = "other"

// options are what the command line says.
type options struct {
	programs    node.Programs
	parts       images.CRIParts
	lanes       string
	focus, skip string
	handler     string // path of the OCI runtime behind otherHandler
	output      string // directory for the suite's own output; "" keeps none
	limit       time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.programs.Bin, "bin", "bin", "directory of the built binaries")
	flag.StringVar(&o.programs.Tools, "tools", ".cache/tools", "directory of critest, ginkgo and crictl")
	flag.StringVar(&o.parts.Busybox, "busybox", ".cache/debian/bin/busybox", "the busybox of Debian's package busybox")
	flag.StringVar(&o.parts.Applets, "applets", ".cache/applets", "the built test/images/applets")
	flag.StringVar(&o.lanes, "lanes", "serial,parallel,handler,websocket", "what to run: of serial, parallel, handler, websocket, benchmark")
	flag.StringVar(&o.focus, "focus", "", "run only specs that match this regular expression")
	flag.StringVar(&o.skip, "skip", "", "leave out specs that match this regular expression")
	flag.StringVar(&o.handler, "handler", "", "OCI runtime of the second handler (default: runc of the tools, crun, runc)")
	flag.StringVar(&o.output, "output", "", "keep the suite's output and reports in this directory")
	flag.DurationVar(&o.limit, "limit", 12*time.Minute, "end one run of the suite after this time")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "critest makes containers, which takes root. Please run: sudo make critest")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	lanes, err := chosen(o.lanes)
	if err != nil {
		return err
	}
	before, err := segments()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, before.restore()) }()
	n, err := node.New(o.programs)
	if n == nil {
		return err
	}
	defer func() {
		if os.Getenv(node.DriverVariable) == "systemd" {
			// The suite names a slice of its own as the parent of pods, and whoever names one, like a kubelet, ends it. systemd may
			// not have it: no spec that needs it was run.
			_ = exec.Command("systemctl", "stop", "test.slice").Run()
		}
		left, stopErr := n.Stop()
		if !left.Empty() {
			fmt.Print(left.Details())
			stopErr = errors.Join(stopErr, errors.New("something is left behind"))
		}
		fmt.Println(left)
		err = errors.Join(err, stopErr)
	}()
	if err != nil {
		return err
	}
	registry, digest, err := serve(n, o.parts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	s := &suite{node: n, options: o}
	if s.runtimes, err = startNode(n, o); err != nil {
		return err
	}
	if s.binary, err = pin(o.programs.Tools+"/critest", n.Base+"/critest", digest); err != nil {
		return err
	}
	return s.all(ctx, lanes)
}

// serve puts the images into a registry and leads the node there.
func serve(n *node.Node, parts images.CRIParts) (*images.Registry, string, error) {
	r, err := images.Serve("127.0.0.1:0", nil)
	if err != nil {
		return nil, "", err
	}
	digest, err := images.PushCRISet(r, parts)
	if err == nil {
		err = r.WriteHosts(n.Hosts, images.CRIHosts...)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("build the images of critest: %w", err), r.Close())
	}
	return r, digest, nil
}

// startNode starts the node with a second runtime handler, and returns the runtimes of both.
func startNode(n *node.Node, o options) (map[string]string, error) {
	path, version, err := findHandler(o)
	if err != nil {
		return nil, fmt.Errorf("second handler: %w", err)
	}
	fmt.Printf("runtime handler %q is %s\n", otherHandler, version)
	if err := n.AddHandler(otherHandler, path); err != nil {
		return nil, err
	}
	return map[string]string{"": "runc", otherHandler: path}, n.Start()
}

// findHandler prefers the newest runc, built beside critest, which can do what the distribution's cannot; then crun
// where it runs, which is cgroup v2.
func findHandler(o options) (path, version string, err error) {
	candidates := []string{filepath.Join(o.programs.Tools, "runc"), "crun", "runc"}
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		candidates = slices.DeleteFunc(candidates, func(s string) bool { return s == "crun" })
	}
	if o.handler != "" {
		candidates = []string{o.handler}
	}
	for _, name := range candidates {
		if path, err = exec.LookPath(name); err != nil {
			continue
		}
		out, err := exec.Command(path, "--version").Output()
		if err != nil {
			return "", "", fmt.Errorf("%s --version: %w", path, err)
		}
		path, err = filepath.Abs(path)
		return path, firstLine(string(out)), err
	}
	return "", "", err
}

func chosen(names string) ([]lane, error) {
	var out []lane
	for _, name := range strings.Split(names, ",") {
		l, ok := allLanes[name]
		if !ok {
			return nil, fmt.Errorf("lane %q: want serial, parallel, handler, websocket or benchmark", name)
		}
		l.name = name
		out = append(out, l)
	}
	return out, nil
}
