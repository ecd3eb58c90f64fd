// Command cluster runs a Kubernetes cluster on this machine, beside whatever else runs there.
//
//	cluster up [--nodes 2]      starts one and returns when its nodes are ready
//	cluster nodes               lists its nodes, from its API
//	cluster kubectl ARGS        runs kubectl for it
//	cluster enter NODE ARGS     runs a program on a node
//	cluster down                ends it, and counts what is left of it
package main

import (
	"context"
	"encoding/json"
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

	"github.com/podwright/podwright/test/cluster"
	"github.com/podwright/podwright/test/isolate"
)

type options struct {
	dir      string
	nodes    int
	programs cluster.Programs
}

const usage = "usage: cluster [flags] up|down|nodes|kubectl ARGS|enter NODE ARGS"

func main() {
	var o options
	root := "."
	if self, err := os.Executable(); err == nil {
		root = filepath.Dir(filepath.Dir(self)) // it is built into .cache
	}
	flag.StringVar(&o.dir, "dir", filepath.Join(os.TempDir(), "podwright-cluster"), "directory of the cluster; its name is that of its cgroup as well")
	flag.IntVar(&o.nodes, "nodes", 2, "nodes that up makes, 1 to 20")
	flag.StringVar(&o.programs.Bin, "bin", root+"/bin", "directory of cri-shim, cri-monitor and bridge-ipam")
	flag.StringVar(&o.programs.Tools, "tools", root+"/.cache/tools", "directory of crictl and runc")
	flag.StringVar(&o.programs.Kubernetes, "kubernetes", root+"/.cache/kubernetes", "directory of etcd and Kubernetes")
	flag.StringVar(&o.programs.Names, "names", root+"/.cache/names", "the test server of names")
	flag.StringVar(&o.programs.Conf, "conf", root+"/conf", "directory of the samples")
	flag.Usage = func() { fmt.Fprintln(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	args := flag.Args()
	if len(args) > 0 && args[0] == "up" { // flags of a command stand behind it as well
		_ = flag.CommandLine.Parse(args[1:]) // it exits by itself
		args = append(args[:1], flag.Args()...)
	}
	code, err := command(o, args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		code = 1
	}
	os.Exit(code)
}

func command(o options, args []string) (code int, err error) {
	switch {
	case len(args) == 1 && args[0] == "up":
		return 0, up(o)
	case len(args) == 1 && args[0] == "serve": // the one that up starts
		return serve(o)
	case len(args) == 1 && args[0] == "down":
		return 0, down(o)
	case len(args) == 1 && args[0] == "nodes":
		return kubectl(o, "get", "nodes", "-o", "wide")
	case len(args) > 1 && args[0] == "kubectl":
		return kubectl(o, args[1:]...)
	case len(args) > 2 && args[0] == "enter":
		return enter(o, args[1], args[2:])
	}
	return 2, errors.New(usage)
}

// state is what up leaves for the other commands.
type state struct {
	PID        int // of the process that holds the cluster
	Kubeconfig string
	Nodes      map[string][]string // by name: how a program is run there
}

func (o options) stateFile() string { return o.dir + "/state.json" }

func (o options) read() (s state, err error) {
	data, err := os.ReadFile(o.stateFile())
	if err != nil {
		return s, fmt.Errorf("no cluster is up: %w", err)
	}
	return s, json.Unmarshal(data, &s)
}

func up(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if o.nodes < 1 || o.nodes > 20 {
		return fmt.Errorf("nodes = %d: want 1 to 20", o.nodes)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(o.dir + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	p := o.programs
	cmd := exec.Command(self, "--dir", o.dir, "--nodes", fmt.Sprint(o.nodes), "--bin", p.Bin, "--tools", p.Tools, "--kubernetes", p.Kubernetes,
		"--names", p.Names, "--conf", p.Conf, "serve")
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // it outlives this program once it is ready
	for {
		select {
		case err := <-ended:
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("it has ended: %w\n%s", err, text)
		case <-time.After(100 * time.Millisecond):
			if _, err := o.read(); err == nil {
				fmt.Printf("ready: %d nodes. cluster kubectl …; cluster down\n", o.nodes)
				return nil
			}
		}
	}
}

// serve holds the cluster until it is told to end.
func serve(o options) (code int, err error) {
	if code, done, err := isolate.Reexec(); done {
		return code, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := cluster.New(ctx, o.dir, o.programs)
	if c == nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	if err != nil {
		return 1, err
	}
	s := state{PID: os.Getpid(), Kubeconfig: c.Kubeconfig(), Nodes: map[string][]string{}}
	for range o.nodes {
		n, err := c.AddNode(ctx, cluster.CRIShim)
		if err != nil {
			return 1, err
		}
		s.Nodes[n.Name] = n.Args()
	}
	data, err := json.Marshal(s)
	if err != nil {
		return 1, err
	}
	draft := o.stateFile() + ".draft"
	if err := errors.Join(os.WriteFile(draft, data, 0o644), os.Rename(draft, o.stateFile())); err != nil {
		return 1, err
	}
	<-ctx.Done()
	return 0, nil
}

// kubectl runs in the network namespace of the control plane.
func kubectl(o options, args ...string) (int, error) {
	s, err := o.read()
	if err != nil {
		return 1, err
	}
	return run(append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", s.PID), "--",
		o.programs.Kubernetes + "/kubectl", "--kubeconfig", s.Kubeconfig}, args...))
}

func enter(o options, node string, args []string) (int, error) {
	s, err := o.read()
	if err != nil {
		return 1, err
	}
	prefix, ok := s.Nodes[node]
	if !ok {
		return 1, fmt.Errorf("there is no node %q", node)
	}
	return run(append(prefix, args...))
}

func run(args []string) (int, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return ended.ExitCode(), nil
	}
	return 0, err
}

// down ends the cluster, also one whose process was killed, and looks for what is left.
func down(o options) error {
	s, err := o.read()
	if err == nil && serving(s.PID, o) {
		if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
			return err
		}
		for deadline := time.Now().Add(5 * time.Minute); serving(s.PID, o); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d does not end", s.PID)
			}
		}
	}
	_, missing := os.Stat(o.dir)
	if missing == nil {
		text, _ := os.ReadFile(o.dir + ".log")
		fmt.Fprintf(os.Stderr, "cluster: its process did not end in good order: %s\n", text)
		if err := cluster.Remove(o.dir); err != nil {
			return err
		}
	}
	left, err := cluster.Left(o.dir, 20*time.Second) // the machine's first process may be slow to reap
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	fmt.Println("left behind: nothing")
	return os.Remove(o.dir + ".log")
}

// serving says whether the process still is the cluster's.
func serving(pid int, o options) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(line), o.dir)
}
