package bridgeipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/jsontext"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// newest is the version of the CNI specification that this plugin is written to.
const newest = "1.1.0"

var supported = version.PluginSupports("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", newest)

// Process is what the plugin gets from its caller and gives back.
type Process struct {
	Args           []string // without the program's name; for people, a runtime gives none
	Version        string
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Log            *slog.Logger // for people; nothing depends on it
}

// Main does one CNI operation and returns the exit code. Stdout gets the result or the error object and
// nothing else.
func Main(p Process) int {
	if p.Getenv("CNI_COMMAND") == "" {
		return people(p)
	}
	cniVersion, err := dispatch(p)
	if err == nil {
		return 0
	}
	if err := printError(p.Stdout, cniVersion, err); err != nil {
		_, _ = fmt.Fprintln(p.Stderr, "write error object:", err)
	}
	return 1
}

// dispatch returns the configuration's version as far as it is known, for the error object.
func dispatch(p Process) (cniVersion string, err error) {
	cniVersion = newest
	env, err := readEnv(p.Getenv)
	if err != nil {
		return cniVersion, err
	}
	if env.command == "VERSION" {
		return cniVersion, supported.Encode(p.Stdout)
	}
	config, err := readConfig(p.Stdin)
	if err != nil {
		return cniVersion, err
	}
	v, err := configVersion(env.command, config)
	if err != nil {
		return cniVersion, err
	}
	boot, err := readBootID()
	if err != nil {
		return v, err
	}
	pl := &plugin{env: env, config: config, version: v, bootID: boot, log: p.Log}
	return v, pl.run(p.Stdout)
}

func readBootID() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(boot)), nil
}

// plugin is one operation.
type plugin struct {
	env     environment
	config  []byte
	version string
	bootID  string
	log     *slog.Logger
}

// store is the lease directory of a network.
func (p *plugin) store(id netconf.Identity) *lease.Store {
	return lease.New(id.DataDir, id.Name, p.bootID).Beside(id.HostLocalDir)
}

func (p *plugin) run(stdout io.Writer) error {
	switch p.env.command {
	case "ADD":
		result, err := p.add()
		if err != nil {
			return err
		}
		return printResult(stdout, result)
	case "CHECK":
		return p.check()
	case "DEL":
		return p.del()
	case "GC":
		return p.gc()
	default: // readEnv let nothing else through
		return p.status()
	}
}

// since is the first version of the specification with a command.
var since = map[string]string{"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}

// configVersion checks that the configuration's version is known and has the command.
func configVersion(command string, config []byte) (string, error) {
	v, err := decodeVersion(config)
	if err != nil {
		return "", types.NewError(types.ErrDecodingFailure, "cniVersion: "+err.Error(), "")
	}
	var reconciler version.Reconciler
	if e := reconciler.Check(v, supported); e != nil {
		return "", types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("cniVersion %q: not supported", v), e.Details())
	}
	first, ok := since[command]
	if !ok {
		return v, nil
	}
	if has, err := version.GreaterThanOrEqualTo(v, first); err != nil || !has {
		return "", types.NewError(types.ErrIncompatibleCNIVersion,
			fmt.Sprintf("cniVersion %q: has no %s, %s is the first with it", v, command, first), "")
	}
	return v, nil
}

// decodeVersion reads cniVersion; a configuration without it is of the first version.
func decodeVersion(config []byte) (v string, err error) {
	common := jsontext.Read(config, func(r *jsontext.Reader) bool {
		return r.Object(jsontext.Member{Key: "cniVersion", Read: func(r *jsontext.Reader) (ok bool) { v, ok = r.Text(); return ok }})
	})
	if !common || v == "" {
		return (&version.ConfigDecoder{}).Decode(config)
	}
	return v, nil
}

// printError writes the error object of the specification. An error without a code is internal (999).
func printError(w io.Writer, cniVersion string, err error) error {
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(types.ErrInternal, err.Error(), "")
	}
	msg := e.Msg
	if full := err.Error(); full != e.Error() { // what was wrapped around the coded error belongs into the message
		msg = full
	}
	data, err := json.MarshalIndent(struct {
		CNIVersion string `json:"cniVersion"`
		Code       uint   `json:"code"`
		Msg        string `json:"msg"`
		Details    string `json:"details,omitempty"`
	}{cniVersion, e.Code, msg, e.Details}, "", "    ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}
