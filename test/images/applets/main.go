// Command applets holds the small programs that critest expects in its images and that no Debian package brings in
// one static file: two web servers, a setuid program, a pause, and two tools that busybox lacks. Each is chosen by
// the name that the program is called by.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

var applets = map[string]func(args []string) error{
	"nginx": nginx,
	"httpd": httpd,
	"nnp":   nnp,
	"pause": pause,
	"pgrep": pgrep,
	"ipcs":  ipcs,
}

func main() {
	// The name of the file, since nginx goes by another name in its argument vector.
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	name := filepath.Base(self)
	run, ok := applets[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "%s is none of nginx, httpd, nnp, pause, pgrep and ipcs\n", name)
		os.Exit(2)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}
