// Command demo runs the main job for real, in a minute, and shows it: two pods on a network of their own, from an
// image in a registry, through a crash of the runtime, and nothing left behind. It touches nothing that another
// runtime of the host uses.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/podwright/podwright/test/node"
)

func main() {
	var p node.Programs
	flag.StringVar(&p.Bin, "bin", "bin", "directory of the built binaries")
	flag.StringVar(&p.Tools, "tools", ".cache/tools", "directory of crictl")
	flag.StringVar(&p.Registry, "registry", ".cache/registry", "the test registry")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "The demo makes network namespaces, mounts and containers, which takes root. Please run: sudo make demo")
		os.Exit(1)
	}
	if run(p) != nil { // which has said why, before its last line
		os.Exit(1)
	}
}

func run(p node.Programs) (err error) {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	n, err := node.New(p)
	if n == nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return err
	}
	d := &demo{n: n, interrupted: interrupted}
	if err == nil {
		err = d.story()
	}
	begin := time.Now()
	left, stopErr := n.Stop()
	fmt.Printf("%-64s %6d ms\n", "everything is stopped and removed", time.Since(begin).Milliseconds())
	if !left.Empty() {
		fmt.Print(left.Details())
		stopErr = errors.Join(stopErr, errors.New("something is left behind"))
	}
	if err = errors.Join(err, stopErr); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	fmt.Println(left)
	return err
}

// demo holds what the steps of the story hand on.
type demo struct {
	n           *node.Node
	interrupted chan os.Signal
	pods        [2]string // ids
	ips         [2]string
	containers  [2]string
}

const image = "podwright.test/busybox:latest"

var names = [2]string{"alice", "bob"}

func (d *demo) story() error {
	n := d.n
	for _, s := range []struct {
		what string
		do   func() (string, error)
	}{
		{"cri-shim answers on its socket", func() (string, error) { return "", n.Start() }},
		{"an image is pulled from a registry", func() (string, error) { return "", quiet(n.Crictl("pull", image)) }},
		{"pod alice runs", func() (string, error) { return d.runPod(0) }},
		{"pod bob runs", func() (string, error) { return d.runPod(1) }},
		{"alice pings bob", func() (string, error) { return d.ping(0, d.ips[1]) }},
		{"bob pings the gateway", func() (string, error) { return d.ping(1, n.Subnet+".1") }},
		{"a command runs inside", func() (string, error) { return n.Crictl("exec", "--sync", d.containers[0], "hostname") }},
		{"cri-shim is killed with kill -9", func() (string, error) { return "", n.Kill() }},
		{"and started again", func() (string, error) { return "", n.Start() }},
		{"both pods are still there, and still ping", d.survived},
		{"the log has every line", d.logComplete},
		{"container and pod of alice are stopped and removed", d.removeAlice},
		{"bob is removed while it runs", func() (string, error) { return "", quiet(n.Crictl("rmp", "-f", d.pods[1])) }},
		{"the image is removed", func() (string, error) { return "", quiet(n.Crictl("rmi", image)) }},
		{"cri-shim doctor finds nothing left behind", d.doctor},
	} {
		begin := time.Now()
		out, err := s.do()
		select {
		case sig := <-d.interrupted:
			return fmt.Errorf("%s: %s", s.what, sig)
		default:
		}
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", s.what, err, n.ShimLog())
		}
		if out = strings.TrimSpace(out); out != "" {
			out = ": " + out
		}
		fmt.Printf("%-64s %6d ms\n", s.what+out, time.Since(begin).Milliseconds())
	}
	return nil
}

// doctor has cri-shim itself look for what is left.
func (d *demo) doctor() (string, error) {
	out, exit, err := d.n.Doctor()
	if err == nil && exit != 0 {
		err = fmt.Errorf("it has findings:\n%s", out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1], err
}

func quiet(_ string, err error) error { return err }

// runPod starts a pod with a container that counts in its log.
func (d *demo) runPod(i int) (_ string, err error) {
	if d.pods[i], err = d.n.RunPod(names[i]); err != nil {
		return "", err
	}
	if d.ips[i], err = d.n.PodIP(d.pods[i]); err != nil {
		return "", err
	}
	d.containers[i], err = d.n.RunContainer(d.pods[i], names[i], "main", image,
		"trap 'exit 0' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.01 & wait; done", "")
	return d.ips[i], err
}

func (d *demo) ping(from int, to string) (string, error) {
	out, err := d.n.Crictl("exec", "--sync", d.containers[from], "ping", "-c", "1", "-w", "5", to)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "time=") {
			_, took, _ := strings.Cut(line, "time=")
			return took, nil
		}
	}
	return "", fmt.Errorf("no answer: %s", out)
}

func (d *demo) survived() (string, error) {
	for i, id := range d.containers {
		c, err := d.n.Container(id)
		if err != nil {
			return "", err
		}
		if c.Status.State != "CONTAINER_RUNNING" {
			return "", fmt.Errorf("%s is %s", names[i], c.Status.State)
		}
	}
	return d.ping(1, d.ips[0])
}

// logComplete looks for a gap in what alice has counted.
func (d *demo) logComplete() (string, error) {
	out, err := d.n.Crictl("logs", d.containers[0])
	if err != nil {
		return "", err
	}
	lines := strings.Fields(out)
	for i, line := range lines {
		if line != fmt.Sprint(i) {
			return "", fmt.Errorf("line %d is %q", i, line)
		}
	}
	if len(lines) < 10 {
		return "", fmt.Errorf("only %d lines", len(lines))
	}
	return fmt.Sprintf("%d lines", len(lines)), nil
}

func (d *demo) removeAlice() (string, error) {
	for _, args := range [][]string{{"stop", d.containers[0]}, {"rm", d.containers[0]}, {"stopp", d.pods[0]}, {"rmp", d.pods[0]}} {
		if _, err := d.n.Crictl(args...); err != nil {
			return "", err
		}
	}
	return "", nil
}
