package bridgeipam

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// Exit codes for people. A runtime looks at nothing but zero or not.
const (
	exitFine  = 0
	exitFault = 1 // something is wrong, and was said on stderr or stdout
	exitUsage = 2
)

const usage = `bridge-ipam is a CNI plugin: a container runtime runs it with CNI_COMMAND and other variables
set and a network configuration on stdin. It makes an interface in a network namespace, joins
it to a bridge and allocates its addresses. It answers ADD, DEL, CHECK, GC, STATUS and VERSION.

For people:
  bridge-ipam leases [-o table|json] [--data-dir DIR]   who has which address, and is it alive
  bridge-ipam check-config FILE                         every fault of a .conf or .conflist; "-" is stdin
  bridge-ipam version
  bridge-ipam help
They exit with 0 when all is well, 1 when something is wrong, 2 when they were called wrongly.

To try it:
  CNI_PATH=<its directory> NETCONFPATH=<conf/cni> cnitool add podwright /run/netns/<name>
CNI specification versions: `

// people serves calls without CNI_COMMAND.
func people(p Process) int {
	command := ""
	if len(p.Args) > 0 {
		command = p.Args[0]
	}
	var err error
	switch command {
	case "leases":
		err = leases(p, p.Args[1:])
	case "check-config":
		err = checkConfig(p, p.Args[1:])
	case "version", "--version", "-v":
		_, err = fmt.Fprintf(p.Stdout, "bridge-ipam %s, CNI %s\n", cmp.Or(p.Version, "devel"), strings.Join(supported.SupportedVersions(), ", "))
	case "help", "--help", "-h":
		err = printUsage(p.Stdout)
	case "":
		_ = printUsage(p.Stderr)
		return exitUsage
	default:
		err = wrongUsage(fmt.Sprintf("%q: no such command", command))
	}
	var wrong wrongUsage
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return exitFine
	case errors.As(err, &wrong):
		_, _ = fmt.Fprintf(p.Stderr, "bridge-ipam: %s\nbridge-ipam help says what there is.\n", err)
		return exitUsage
	}
	_, _ = fmt.Fprintf(p.Stderr, "bridge-ipam: %s\n", err)
	return exitFault
}

func printUsage(w io.Writer) error {
	_, err := fmt.Fprintln(w, usage+strings.Join(supported.SupportedVersions(), ", "))
	return err
}

// wrongUsage is a call that makes no sense.
type wrongUsage string

func (w wrongUsage) Error() string { return string(w) }

// parseFlags reads flags; what follows them are the arguments.
func parseFlags(set *flag.FlagSet, p Process, args []string) ([]string, error) {
	set.SetOutput(io.Discard)
	err := set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil, errors.Join(printUsage(p.Stdout), err)
	}
	if err != nil {
		return nil, wrongUsage(set.Name() + ": " + err.Error())
	}
	return set.Args(), nil
}
