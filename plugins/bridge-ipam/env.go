package bridgeipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// maxConfig is the largest configuration that is read, in bytes.
const maxConfig = 1 << 20

// maxContainerID bounds the ids: they become part of records and of link aliases.
const maxContainerID = 1024

// environment is the CNI_ variables of one call, validated.
type environment struct {
	command     string
	containerID string
	ifName      string
	netns       string
	args        string
	path        string // where other plugins are
	sameNetns   bool   // CNI_NETNS_OVERRIDE: the plugin's own namespace is fine
}

func (e environment) attachment() lease.Attachment {
	return lease.Attachment{ContainerID: e.containerID, IfName: e.ifName}
}

// required are the variables that each command needs (CNI 1.1.0, "Parameters").
var required = map[string][]string{
	"ADD":     {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"},
	"CHECK":   {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"},
	"DEL":     {"CNI_CONTAINERID", "CNI_IFNAME"},
	"GC":      {"CNI_PATH"},
	"STATUS":  {"CNI_PATH"},
	"VERSION": nil,
}

func readEnv(getenv func(string) string) (environment, error) {
	e := environment{command: getenv("CNI_COMMAND")}
	needs, ok := required[e.command]
	if !ok {
		return e, badEnv("CNI_COMMAND %q: want ADD, DEL, CHECK, GC, STATUS or VERSION", e.command)
	}
	missing := slices.DeleteFunc(slices.Clone(needs), func(name string) bool { return getenv(name) != "" })
	if len(missing) > 0 {
		return e, badEnv("%s: missing, %s needs them", strings.Join(missing, ", "), e.command)
	}
	e.containerID, e.ifName = getenv("CNI_CONTAINERID"), getenv("CNI_IFNAME")
	e.netns, e.args, e.path = getenv("CNI_NETNS"), getenv("CNI_ARGS"), getenv("CNI_PATH")
	override := getenv("CNI_NETNS_OVERRIDE")
	e.sameNetns = strings.EqualFold(override, "true") || override == "1"
	var faults []string
	if slices.Contains(needs, "CNI_CONTAINERID") {
		if !netconf.IsName(e.containerID) || len(e.containerID) > maxContainerID {
			faults = append(faults, fmt.Sprintf("CNI_CONTAINERID %.80q: want letters, digits, '.', '_' and '-', "+
				"a letter or digit first, at most %d bytes", e.containerID, maxContainerID))
		}
		if !netconf.IsInterfaceName(e.ifName) {
			faults = append(faults, fmt.Sprintf("CNI_IFNAME %.80q: want at most 15 bytes, not \".\" or \"..\", "+
				"no '/', ':', '%%' or space", e.ifName))
		}
	}
	if len(faults) > 0 {
		return e, badEnv("%s", strings.Join(faults, "; "))
	}
	return e, nil
}

func badEnv(format string, args ...any) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf(format, args...), "")
}

// readConfig reads one JSON value and does not wait for more. Only space may follow it.
func readConfig(stdin io.Reader) ([]byte, error) {
	limited := &io.LimitedReader{R: stdin, N: maxConfig + 1}
	dec := json.NewDecoder(limited)
	var config json.RawMessage
	err := dec.Decode(&config)
	if limited.N <= 0 {
		return nil, types.NewError(types.ErrIOFailure,
			fmt.Sprintf("network configuration on stdin: larger than %d bytes", maxConfig), "")
	}
	if err == nil {
		rest, e := io.ReadAll(dec.Buffered())
		if e == nil && strings.TrimSpace(string(rest)) != "" {
			e = errors.New("more than one JSON value")
		}
		err = e
	}
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return config, nil
	case errors.Is(err, io.EOF):
		err = errors.New("empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it ends in the middle")
	case errors.As(err, &syntax):
		err = fmt.Errorf("at byte %d: %w", syntax.Offset, err)
	}
	return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("network configuration on stdin: %s", err), "")
}
