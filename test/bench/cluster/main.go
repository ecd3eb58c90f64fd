// Command cluster measures what users of a cluster see — pods created until they are ready, one at a time and many at once — and
// what a node pays for pods that only have exec probes: on a node of cri-shim and on one of an unmodified containerd with the
// reference plugins, both in one cluster, in turn. Absolute times mean little on a shared machine; ratios of one run do.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/podwright/podwright/test/cluster"
	"github.com/podwright/podwright/test/isolate"
)

type options struct {
	programs   cluster.Programs
	one, many  int
	idle       time.Duration
	probeEvery int
}

// side is a node and what was measured of it.
type side struct {
	name string
	node *cluster.Node

	one        []time.Duration
	first, all time.Duration // of many at once: until half of them, and until all are ready
	cpuMany    time.Duration // of the runtime, to start them
	cpuIdle    time.Duration // of the runtime, while they have nothing but probes
}

func main() {
	var o options
	flag.StringVar(&o.programs.Bin, "bin", "bin", "directory of the built binaries")
	flag.StringVar(&o.programs.Tools, "tools", ".cache/tools", "directory of crictl, runc and the reference plugins")
	flag.StringVar(&o.programs.Kubernetes, "kubernetes", ".cache/kubernetes", "directory of etcd and Kubernetes")
	flag.StringVar(&o.programs.Containerd, "containerd", ".cache/containerd", "directory of containerd")
	flag.StringVar(&o.programs.Names, "names", ".cache/names", "the test server of names")
	flag.StringVar(&o.programs.Conf, "conf", "conf", "directory of the samples")
	flag.IntVar(&o.one, "one", 15, "pods created one at a time")
	flag.IntVar(&o.many, "many", 60, "pods created at once, and then left idle, up to 150")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long they are left")
	flag.IntVar(&o.probeEvery, "probe", 10, "seconds between the exec probes of a pod")
	flag.Parse()
	if code, done, err := isolate.Reexec(); done {
		if err != nil {
			fmt.Fprintln(os.Stderr, "cluster:", err)
		}
		os.Exit(code)
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(o options) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := cluster.New(ctx, filepath.Join(os.TempDir(), fmt.Sprintf("podwright-bench-%d", os.Getpid())), o.programs)
	if c == nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	if err != nil {
		return err
	}
	sides := []*side{{name: "cri-shim"}, {name: "containerd"}}
	for _, s := range sides {
		if s.node, err = c.AddNode(ctx, cluster.Runtime(s.name)); err != nil {
			return err
		}
	}
	b := &bench{api: c.API, options: o}
	for _, s := range sides { // warm: images, bridges, first-use costs
		if _, err := b.start(ctx, s, "warm", 1); err != nil {
			return err
		}
	}
	if err := b.remove(ctx); err != nil {
		return err
	}
	if err := b.measure(ctx, sides); err != nil {
		return err
	}
	return report(os.Stdout, o, sides)
}

type bench struct {
	api *cluster.API
	options
}

func (b *bench) measure(ctx context.Context, sides []*side) error {
	for i := range b.one {
		for _, s := range sides {
			took, err := b.start(ctx, s, fmt.Sprintf("one-%d", i), 1)
			if err != nil {
				return err
			}
			s.one = append(s.one, took[0])
		}
		if err := b.remove(ctx); err != nil {
			return err
		}
	}
	for _, s := range sides {
		before, err := s.node.CPU()
		if err != nil {
			return err
		}
		took, err := b.start(ctx, s, "many", b.many)
		if err != nil {
			return err
		}
		started, err := s.node.CPU()
		if err != nil {
			return err
		}
		s.first, s.all, s.cpuMany = median(took), slices.Max(took), started-before
		if err := b.leave(ctx, s); err != nil {
			return err
		}
		if err := b.remove(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leave measures a node whose pods are ready and have settled.
func (b *bench) leave(ctx context.Context, s *side) error {
	if err := pause(ctx, 10*time.Second); err != nil {
		return err
	}
	before, err := s.node.CPU()
	if err != nil {
		return err
	}
	if err := pause(ctx, b.idle); err != nil {
		return err
	}
	after, err := s.node.CPU()
	s.cpuIdle = after - before
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

const pods = "/api/v1/namespaces/default/pods"

// start creates pods at once, for a node by the scheduler's choice, and returns how long it was from there until each was ready.
func (b *bench) start(ctx context.Context, s *side, name string, count int) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	group := s.node.Name + "-" + name
	watch, err := b.api.Open(ctx, http.MethodGet, pods+"?watch=1&labelSelector=group%3D"+group, nil)
	if err != nil {
		return nil, err
	}
	defer watch.Close()
	begin := time.Now()
	for i := range count {
		if err := b.api.Do(ctx, http.MethodPost, pods, b.pod(s, group, i), nil); err != nil {
			return nil, err
		}
	}
	took := map[string]time.Duration{}
	for events := json.NewDecoder(watch); len(took) < count; {
		var event struct {
			Object struct {
				Metadata struct{ Name string }
				Status   struct {
					Conditions []struct{ Type, Status string }
				}
			}
		}
		if err := events.Decode(&event); err != nil {
			return nil, fmt.Errorf("%d of %d pods on the node of %s are ready: %w", len(took), count, s.name, err)
		}
		for _, c := range event.Object.Status.Conditions {
			if _, known := took[event.Object.Metadata.Name]; !known && c.Type == "Ready" && c.Status == "True" {
				took[event.Object.Metadata.Name] = time.Since(begin)
			}
		}
	}
	var out []time.Duration
	for _, d := range took {
		out = append(out, d)
	}
	return out, nil
}

func (b *bench) pod(s *side, group string, i int) []byte {
	return fmt.Appendf(nil, `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "%[1]s-%[2]d", "labels": {"group": %[1]q}}, "spec": {
 "nodeSelector": {"kubernetes.io/hostname": %[3]q}, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "enableServiceLinks": false,
 "containers": [{"name": "main", "image": %[4]q, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "100000"],
  "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": %[5]d, "timeoutSeconds": 10}}]}}`, group, i, s.node.Name, cluster.Busybox, b.probeEvery)
}

// remove removes all pods and waits until they are gone.
func (b *bench) remove(ctx context.Context) error {
	if err := b.api.Do(ctx, http.MethodDelete, pods, nil, nil); err != nil {
		return err
	}
	for {
		var list struct{ Items []struct{} }
		if err := b.api.Get(ctx, pods, &list); err != nil {
			return err
		}
		if len(list.Items) == 0 {
			return pause(ctx, time.Second)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func median(d []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}

func report(out *os.File, o options, sides []*side) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\t%s\t%s\tratio\n", sides[0].name, sides[1].name)
	row := func(what string, value func(*side) time.Duration) {
		a, b := value(sides[0]).Seconds(), value(sides[1]).Seconds()
		fmt.Fprintf(w, "%s\t%.3f s\t%.3f s\t%.3f\n", what, a, b, a/b)
	}
	row(fmt.Sprintf("1 pod, created until ready, p50 of %d", o.one), func(s *side) time.Duration { return median(s.one) })
	row(fmt.Sprintf("%d pods at once, until half are ready", o.many), func(s *side) time.Duration { return s.first })
	row(fmt.Sprintf("%d pods at once, until all are ready", o.many), func(s *side) time.Duration { return s.all })
	row("  CPU of the runtime for it", func(s *side) time.Duration { return s.cpuMany })
	row(fmt.Sprintf("CPU of the runtime, %d idle pods with exec probes each %d s, over %s", o.many, o.probeEvery, o.idle), func(s *side) time.Duration { return s.cpuIdle })
	return w.Flush()
}
