package bridgeipam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/ipam"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// maxStderr is how much of what a plugin says on stderr goes into an error, in bytes.
const maxStderr = 1024

// delegated runs an operation of the IPAM plugin that a configuration names.
func (p *plugin) delegated(command, name string) error {
	_, err := p.runDelegate(command, name)
	return err
}

// runDelegate runs the plugin with our own configuration and variables, as the specification says
// ("Section 4: Plugin Delegation"), and returns its stdout. The library's pkg/invoke would do it too, and
// would bring OpenTelemetry into the start of every process.
func (p *plugin) runDelegate(command, name string) ([]byte, error) {
	path, err := p.findDelegate(name)
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command) // the last one counts
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(p.config), &stdout, &stderr
	err = cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	var e types.Error
	if json.Unmarshal(stdout.Bytes(), &e) != nil || e.Msg == "" {
		said := strings.TrimSpace(stderr.String())
		e = types.Error{Code: types.ErrInternal, Msg: fmt.Sprintf("%s: %s", err, said[:min(len(said), maxStderr)])}
	}
	return nil, fmt.Errorf("IPAM plugin %s, %s: %w", name, command, &e)
}

func (p *plugin) findDelegate(name string) (string, error) {
	for _, dir := range filepath.SplitList(p.env.path) {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", types.NewError(types.ErrInvalidNetworkConfig,
		fmt.Sprintf("ipam.type %q: no such plugin in CNI_PATH %q", name, p.env.path), "")
}

// noLease is the place of takeLease for addresses of another plugin: the link comes first, because a plugin
// such as dhcp asks through it.
func (a *adding) noLease() error {
	if _, err := a.findDelegate(a.conf.Delegate); err != nil {
		return err
	}
	return a.newLease()
}

func (a *adding) attachDelegated() (types.Result, error) {
	if err := a.links(); err != nil {
		return nil, err
	}
	if err := a.activate(); err != nil {
		return nil, err
	}
	if err := a.askDelegate(); err != nil {
		return nil, err
	}
	// The same steps as before, now with addresses; each finds what it made the first time.
	if !a.conf.Routed {
		if err := a.ensureGateways(); err != nil {
			return nil, err
		}
	}
	if err := a.configurePod(); err != nil {
		return nil, fmt.Errorf("configure %s: %w", a.env.ifName, err)
	}
	if a.conf.Routed {
		if err := a.activate(); err != nil {
			return nil, err
		}
	}
	if err := a.noteLease(); err != nil {
		return nil, err
	}
	for _, step := range []func() error{a.besideLinks, a.guardPort, a.hostPorts, a.settle} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return a.result()
}

// askDelegate gets addresses, routes and DNS, and has them in the place of those of a configuration.
func (a *adding) askDelegate() error {
	out, err := a.runDelegate("ADD", a.conf.Delegate)
	if err != nil {
		return err
	}
	res, err := netconf.ParseResult("result of "+a.conf.Delegate, a.version, out)
	if err != nil {
		return err
	}
	if len(res.IPs) == 0 {
		return fmt.Errorf("result of %s: has no address", a.conf.Delegate)
	}
	conf := *a.conf
	conf.Routes = res.Routes
	if isEmptyDNS(conf.DNS) {
		conf.DNS = res.DNS
	}
	for _, ip := range res.IPs {
		prefix, err := netip.ParsePrefix(ip.Address.String())
		if err != nil {
			return fmt.Errorf("result of %s: %w", a.conf.Delegate, err)
		}
		r := ipam.Range{Subnet: prefix.Masked()}
		if gw, ok := netip.AddrFromSlice(ip.Gateway); ok {
			r.Gateway = gw.Unmap()
		} else if conf.IsGateway {
			r.Gateway = r.Subnet.Addr().Next()
		}
		a.given = append(a.given, given{prefix.Addr(), r})
		conf.Sets = append(conf.Sets, ipam.Set{r})
	}
	a.conf = &conf
	a.addressLease()
	a.forgetFlows(a.lease.Addresses)
	return nil
}

// noteLease writes down what masquerade, host ports, CHECK and GC need to know.
func (a *adding) noteLease() (err error) {
	store, err := a.store.Lock()
	if err != nil {
		return ioFailure(err)
	}
	defer func() { err = errors.Join(err, store.Unlock()) }()
	if err := store.Release(a.at); err != nil {
		return err
	}
	if err := a.claimHostPorts(store); err != nil {
		return err
	}
	return store.Commit(a.lease)
}
