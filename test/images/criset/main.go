// Command criset serves the images of critest on loopback until it is told to stop, so that the suite runs
// unmodified and offline. It prints "ready URL DIGEST" once they are there: the digest, in hex, is that of the
// image that critest pins.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/podwright/podwright/test/images"
)

func main() {
	var parts images.CRIParts
	listen := flag.String("listen", "127.0.0.1:0", "address on loopback")
	dir := flag.String("hosts-dir", "", "write a tree of hosts.toml here that leads the registries of critest to this one")
	flag.StringVar(&parts.Busybox, "busybox", ".cache/debian/bin/busybox", "the busybox of Debian's package busybox")
	flag.StringVar(&parts.Applets, "applets", ".cache/applets", "the built test/images/applets")
	flag.Parse()
	if err := run(*listen, *dir, parts); err != nil {
		fmt.Fprintln(os.Stderr, "criset:", err)
		os.Exit(1)
	}
}

func run(listen, dir string, parts images.CRIParts) (err error) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	r, err := images.Serve(listen, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	digest, err := images.PushCRISet(r, parts)
	if err != nil {
		return err
	}
	if dir != "" {
		if err := r.WriteHosts(dir, images.CRIHosts...); err != nil {
			return err
		}
	}
	fmt.Printf("ready http://%s %s\n", r.Addr, digest)
	<-stop
	return nil
}
