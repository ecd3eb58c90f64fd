// Command pods measures a node's everyday work — pods started, commands run, pods removed, memory — with cri-shim and
// with an unmodified containerd in alternation, in one run, on the same images, and prints both with their ratio. Absolute times
// mean little on a shared machine; ratios of one run do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/test/criclient"
	"github.com/podwright/podwright/test/isolate"
	"github.com/podwright/podwright/test/node"
	"github.com/podwright/podwright/test/peer"
)

const image = "podwright.test/busybox:latest"

type options struct {
	programs   node.Programs
	containerd string
	pods       int
	parallel   int
}

func main() {
	var o options
	flag.StringVar(&o.programs.Bin, "bin", "bin", "directory of the built binaries")
	flag.StringVar(&o.programs.Tools, "tools", ".cache/tools", "directory of crictl and the reference plugins")
	flag.StringVar(&o.programs.Registry, "registry", ".cache/registry", "the test registry")
	flag.StringVar(&o.containerd, "containerd", ".cache/containerd", "directory of containerd; empty: cri-shim alone")
	flag.IntVar(&o.pods, "n", 40, "pods started one at a time, and again in parallel")
	flag.IntVar(&o.parallel, "parallel", 4, "pods started at a time in the parallel part")
	flag.Parse()
	if code, done, err := isolate.Reexec(); done {
		if err != nil {
			fmt.Fprintln(os.Stderr, "pods:", err)
		}
		os.Exit(code)
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "pods:", err)
		os.Exit(1)
	}
}

func run(o options) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	n, err := node.New(o.programs)
	if n == nil {
		return err
	}
	defer func() {
		left, stopErr := n.Stop()
		err = errors.Join(err, stopErr)
		if !left.Empty() {
			err = errors.Join(err, fmt.Errorf("%s\n%s", left, left.Details()))
		}
	}()
	if err != nil {
		return err
	}
	if err := n.Start(); err != nil {
		return err
	}
	monitor, err := n.MonitorPID()
	if err != nil {
		return err
	}
	sides := []*side{{name: "cri-shim", socket: n.Socket, cgroups: n.CgroupParent, pids: func() ([]int, error) { return []int{n.ShimPID(), monitor}, nil }}}
	if o.containerd != "" {
		c, err := peer.Start(n, peer.Programs{Dir: o.containerd, Plugins: o.programs.Tools}, peer.ReferenceNetwork(n))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Stop(), peer.DropReferenceNetwork(n)) }()
		sides = append(sides, &side{name: "containerd", socket: c.Socket, pids: c.PIDs, cgroups: c.CgroupParent})
	}
	for _, s := range sides {
		if s.cri, err = criclient.Dial(s.socket, s.cgroups); err != nil {
			return err
		}
		defer s.cri.Close()
		if err := s.cri.Pull(ctx, image, peer.SandboxImage); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if err := measure(ctx, o, sides); err != nil {
		return err
	}
	return report(os.Stdout, o, sides)
}

// side is one runtime and what was measured of it.
type side struct {
	name    string
	socket  string
	pids    func() ([]int, error) // of all its processes
	cgroups string                // where its pods go

	cri *criclient.Client

	start, remove, exec, list []time.Duration
	perSecond                 float64
	idle, held                int64 // PSS in KiB: before the first pod, and with all pods
}

func measure(ctx context.Context, o options, sides []*side) error {
	for _, s := range sides { // warm: page cache, bridge, first-use costs
		p, err := s.startPod(ctx, "warm")
		if err != nil {
			return err
		}
		if err := s.cri.Remove(ctx, p); err != nil {
			return err
		}
	}
	time.Sleep(3 * time.Second)
	for _, s := range sides {
		if err := s.memory(&s.idle); err != nil {
			return err
		}
	}
	pods, err := oneAtATime(ctx, o, sides)
	if err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	for i, s := range sides {
		if err := errors.Join(s.memory(&s.held), s.ask(ctx, pods[i])); err != nil {
			return err
		}
	}
	for i := range o.pods {
		for k, s := range sides {
			begin := time.Now()
			if err := s.cri.Remove(ctx, pods[k][i]); err != nil {
				return err
			}
			s.remove = append(s.remove, time.Since(begin))
		}
	}
	for _, s := range sides {
		if err := s.inParallel(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// oneAtATime starts pods on each side in turn.
func oneAtATime(ctx context.Context, o options, sides []*side) ([][]criclient.Pod, error) {
	pods := make([][]criclient.Pod, len(sides))
	for i := range o.pods {
		for k, s := range sides {
			begin := time.Now()
			p, err := s.startPod(ctx, fmt.Sprintf("p%d", i))
			if err != nil {
				return nil, err
			}
			s.start = append(s.start, time.Since(begin))
			pods[k] = append(pods[k], p)
		}
	}
	return pods, nil
}

func (s *side) startPod(ctx context.Context, name string) (criclient.Pod, error) {
	p, err := s.cri.Start(ctx, criclient.Spec{Name: name, Image: image, Command: []string{"sleep", "100000"}})
	if err != nil {
		err = fmt.Errorf("%s: %w", s.name, err)
	}
	return p, err
}

// ask runs a command in each pod and lists all containers as often.
func (s *side) ask(ctx context.Context, pods []criclient.Pod) error {
	for _, p := range pods {
		begin := time.Now()
		if _, err := s.cri.Exec(ctx, p, "true"); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		s.exec = append(s.exec, time.Since(begin))
		begin = time.Now()
		if _, err := s.cri.ListContainers(ctx, &runtime.ListContainersRequest{}); err != nil {
			return fmt.Errorf("%s: ListContainers: %w", s.name, err)
		}
		s.list = append(s.list, time.Since(begin))
	}
	return nil
}

func (s *side) inParallel(ctx context.Context, o options) error {
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, o.parallel)
		pods  = make([]criclient.Pod, o.pods)
		errs  = make([]error, o.pods)
		begin = time.Now()
	)
	for i := range o.pods {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			pods[i], errs[i] = s.startPod(ctx, fmt.Sprintf("q%d", i))
		})
	}
	wg.Wait()
	s.perSecond = float64(o.pods) / time.Since(begin).Seconds()
	for i, p := range pods {
		if errs[i] == nil {
			errs[i] = s.cri.Remove(ctx, p)
		}
	}
	return errors.Join(errs...)
}

func median(d []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}

func report(out *os.File, o options, sides []*side) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(what string, value func(*side) float64, unit string) {
		fmt.Fprintf(w, "%s", what)
		for _, s := range sides {
			fmt.Fprintf(w, "\t%.2f %s", value(s), unit)
		}
		if len(sides) == 2 {
			fmt.Fprintf(w, "\t%.3f", value(sides[0])/value(sides[1]))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "\t", sides[0].name)
	if len(sides) == 2 {
		fmt.Fprint(w, "\t", sides[1].name, "\tratio")
	}
	fmt.Fprintln(w)
	ms := func(d []time.Duration) float64 { return float64(median(d).Microseconds()) / 1000 }
	row("pod start, p50", func(s *side) float64 { return ms(s.start) }, "ms")
	row("pod removal, p50", func(s *side) float64 { return ms(s.remove) }, "ms")
	row("ExecSync, p50", func(s *side) float64 { return ms(s.exec) }, "ms")
	row(fmt.Sprintf("ListContainers of %d, p50", o.pods), func(s *side) float64 { return ms(s.list) }, "ms")
	row(fmt.Sprintf("pods per second, %d at a time", o.parallel), func(s *side) float64 { return s.perSecond }, "")
	row("idle PSS, all processes", func(s *side) float64 { return float64(s.idle) / 1024 }, "MiB")
	row("PSS per pod", func(s *side) float64 { return float64(s.held-s.idle) / float64(o.pods) }, "KiB")
	return w.Flush()
}
