// Command registry serves the test images on loopback until it is told to stop. It prints "ready URL" once they
// are there.
//
// Under podwright.test it serves: busybox:latest and busybox:1 (the same image), user:1000 (runs as uid 1000),
// pause:latest (sleeps, for runtimes that need a process per pod), and corrupt:latest (its layer does not have the digest that its manifest says).
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/podwright/podwright/test/images"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address on loopback")
	dir := flag.String("hosts-dir", "", "write a tree of hosts.toml here that leads podwright.test to this registry")
	mirrors := flag.String("mirror", "", "comma separated further hosts for the tree")
	flag.Parse()
	if err := run(*listen, *dir, *mirrors); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(listen, dir, mirrors string) (err error) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	r, err := images.Serve(listen, images.CorruptLayers("corrupt"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := push(r); err != nil {
		return err
	}
	if dir != "" {
		hosts := []string{"podwright.test"}
		if mirrors != "" {
			hosts = append(hosts, strings.Split(mirrors, ",")...)
		}
		if err := r.WriteHosts(dir, hosts...); err != nil {
			return err
		}
	}
	fmt.Printf("ready http://%s\n", r.Addr)
	<-stop
	return nil
}

func push(r *images.Registry) error {
	busybox, err := images.Busybox()
	if err != nil {
		return err
	}
	user, err := images.Configure(busybox, func(c *v1.Config) { c.User = "1000" })
	if err != nil {
		return err
	}
	pause, err := images.Configure(busybox, func(c *v1.Config) { c.Cmd = []string{"sleep", "2147483647"} })
	if err != nil {
		return err
	}
	// A layer of its own: one that is there already is not fetched again.
	layer, err := images.Layer(images.File{Path: "large", Mode: 0o644, Data: noise(64 << 10)})
	if err != nil {
		return err
	}
	corrupt, err := mutate.AppendLayers(busybox, layer)
	if err != nil {
		return err
	}
	layer, err = images.Layer(images.File{Path: "noise", Mode: 0o644, Data: noise(4 << 20)})
	if err != nil {
		return err
	}
	large, err := mutate.AppendLayers(busybox, layer)
	if err != nil {
		return err
	}
	for _, p := range []struct {
		ref string
		img v1.Image
	}{{"busybox:latest", busybox}, {"busybox:1", busybox}, {"user:1000", user}, {"pause:latest", pause}, {"corrupt:latest", corrupt}, {"large:latest", large}} {
		if _, err := r.Push(p.ref, p.img); err != nil {
			return err
		}
	}
	return nil
}

// noise does not compress, so that it stays as large in a layer.
func noise(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // never fails
	return data
}
