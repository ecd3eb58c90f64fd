package netconf

import (
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// args are the keys of CNI_ARGS that this plugin knows.
type args struct {
	mac string
	ips []string
}

// parseArgs reads "K=V;K2=V2". As in the reference, an unknown key is an error unless IgnoreUnknown is set.
func parseArgs(s string) (args, error) {
	var a args
	var unknown []string
	ignore := false
	if s == "" {
		return a, nil
	}
	for _, pair := range strings.Split(s, ";") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return a, badArgs(fmt.Sprintf("%q has no '='", pair))
		}
		switch key {
		case "MAC":
			a.mac = value
		case "IP":
			a.ips = append(a.ips, strings.Split(value, ",")...)
		case "IgnoreUnknown":
			ignore = strings.EqualFold(value, "true") || value == "1"
		default:
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 && !ignore {
		return a, badArgs(fmt.Sprintf("unknown keys %s, and IgnoreUnknown is not set", strings.Join(unknown, ", ")))
	}
	return a, nil
}

func badArgs(msg string) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: "+msg, "")
}
