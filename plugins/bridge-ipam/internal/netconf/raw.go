package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// maxName is the longest name of a network: it becomes the name of a directory.
const maxName = 255

// rawIdentity are the keys of Identity as they stand in the JSON.
type rawIdentity struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Bridge     string `json:"bridge"`
	Type       string `json:"type"`
	Mode       string `json:"mode"`
}

type rawTeardown struct {
	rawIdentity
	IPAM struct {
		Type    string `json:"type"`
		DataDir string `json:"dataDir"`
	} `json:"ipam"`
	RuntimeConfig struct {
		NetnsDestroyed bool `json:"io.podwright.netns-destroyed"`
	} `json:"runtimeConfig"`
	Valid json.RawMessage `json:"cni.dev/valid-attachments"`
	// The key's name in libcni before the specification's was used (containernetworking/cni issue 1101).
	OldValid json.RawMessage `json:"cni.dev/attachments"`
}

type raw struct {
	rawIdentity
	rawBandwidth
	rawPortmap
	rawLayer2
	IsGateway        bool      `json:"isGateway"`
	IsDefaultGateway bool      `json:"isDefaultGateway"`
	ForceAddress     bool      `json:"forceAddress"`
	IPMasq           bool      `json:"ipMasq"`
	IPMasqBackend    *string   `json:"ipMasqBackend"`
	MTU              int       `json:"mtu"`
	HairpinMode      bool      `json:"hairpinMode"`
	DNS              types.DNS `json:"dns"`
	IPAM             rawIPAM   `json:"ipam"`
	Args             struct {
		CNI struct {
			MAC string   `json:"mac"`
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		MAC          string           `json:"mac"`
		IPs          []string         `json:"ips"`
		IPRanges     [][]rawRange     `json:"ipRanges"`
		PortMappings []rawPortMapping `json:"portMappings"`
		Bandwidth    rawBandwidth     `json:"bandwidth"`
	} `json:"runtimeConfig"`
	PrevResult json.RawMessage `json:"prevResult"`
}

type rawIPAM struct {
	rawRange
	Type       string            `json:"type"`
	Ranges     [][]rawRange      `json:"ranges"`
	Routes     []json.RawMessage `json:"routes"`
	DataDir    string            `json:"dataDir"`
	ResolvConf string            `json:"resolvConf"`
}

type rawRange struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

// decode reads JSON into a raw value; its errors name the key where they can.
func decode(data []byte, into any) error {
	err := json.Unmarshal(data, into)
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return types.NewError(types.ErrDecodingFailure,
			fmt.Sprintf("%s: a JSON %s does not fit, want %s", keyOf(kind), kind.Value, wanted(kind)), "")
	}
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "network configuration: "+err.Error(), "")
	}
	return nil
}

// keyOf is the path of the key; Go's path has the names of embedded structs in it.
func keyOf(e *json.UnmarshalTypeError) string {
	parts := strings.Split(e.Field, ".")
	parts = slices.DeleteFunc(parts, func(s string) bool {
		return s == "" || s == "rawIdentity" || s == "rawPortmap" || s == "rawRange" || s == "rawBandwidth" || s == "rawLayer2"
	})
	if len(parts) == 0 {
		return "network configuration"
	}
	return strings.Join(parts, ".")
}

func wanted(e *json.UnmarshalTypeError) string {
	switch kind := e.Type.Kind().String(); kind {
	case "bool":
		return "true or false"
	case "int", "int64":
		return "a whole number"
	case "slice":
		return "a list"
	case "struct", "map":
		return "an object"
	default:
		return "a " + kind
	}
}

// identity validates what every operation needs.
func (r rawIdentity) identity(ipamType, dataDir string) (Identity, error) {
	id := Identity{CNIVersion: r.CNIVersion, Name: r.Name, Bridge: r.Bridge, DataDir: dataDir, Roles: r.roles(ipamType, dataDir)}
	if id.Name == "" {
		return id, fault("name: missing, give the network a name")
	}
	if !IsName(id.Name) {
		return id, fault(fmt.Sprintf("name %q: want letters, digits, '.', '_' and '-', a letter or digit first", id.Name))
	}
	if len(id.Name) > maxName {
		return id, fault(fmt.Sprintf("name: %d bytes long, at most %d are possible", len(id.Name), maxName))
	}
	if id.Bridge == "" || id.AddressesOnly {
		id.Bridge = DefaultBridge
	}
	if !IsInterfaceName(id.Bridge) || strings.Contains(id.Bridge, "\x00") {
		return id, fault(fmt.Sprintf("bridge %q: not a name of a network interface (at most 15 bytes, no '/', ':', '%%' or space)", id.Bridge))
	}
	if id.DataDir == "" {
		id.DataDir = DefaultDataDir
	}
	if !filepath.IsAbs(id.DataDir) {
		return id, fault(fmt.Sprintf("ipam.dataDir %q: want an absolute path", id.DataDir))
	}
	id.DataDir = filepath.Clean(id.DataDir)
	return id, nil
}

// ParseTeardown reads what DEL and GC need.
func ParseTeardown(data []byte) (*Teardown, error) {
	var r rawTeardown
	if !read(data, &r, (*rawTeardown).members) {
		if err := decode(data, &r); err != nil {
			return nil, err
		}
	}
	id, err := r.identity(r.IPAM.Type, r.IPAM.DataDir)
	if err != nil {
		return nil, err
	}
	t := &Teardown{Identity: id, NetnsDestroyed: r.RuntimeConfig.NetnsDestroyed}
	if r.Valid == nil {
		r.Valid = r.OldValid
	}
	if r.Valid == nil {
		return t, nil
	}
	if err := decode(r.Valid, &t.Valid); err != nil {
		return nil, fault("cni.dev/valid-attachments: want a list of {\"containerID\", \"ifname\"}")
	}
	if t.Valid == nil { // null: libcni's way to write an empty list
		t.Valid = []types.GCAttachment{}
	}
	return t, nil
}
