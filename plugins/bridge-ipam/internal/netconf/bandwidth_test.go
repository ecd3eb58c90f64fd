package netconf

import (
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// TestBandwidthKeys: as the reference plugin bandwidth reads them.
func TestBandwidthKeys(t *testing.T) {
	const rest = `"cniVersion":"1.1.0","name":"net"`
	for name, c := range map[string]struct {
		keys            string
		ingress, egress Limit
		words           string // of the fault; empty: none
	}{
		"none":           {`{` + rest + `}`, Limit{}, Limit{}, ""},
		"static":         {`{"ingressRate":8000,"ingressBurst":80,` + rest + `}`, Limit{8000, 80}, Limit{}, ""},
		"runtime":        {`{"runtimeConfig":{"bandwidth":{"egressRate":8000,"egressBurst":80}},` + rest + `}`, Limit{}, Limit{8000, 80}, ""},
		"static wins":    {`{"ingressRate":0,"runtimeConfig":{"bandwidth":{"egressRate":8000,"egressBurst":80}},` + rest + `}`, Limit{}, Limit{}, ""},
		"rate only":      {`{"ingressRate":8000,` + rest + `}`, Limit{}, Limit{}, "ingressBurst: missing, ingressRate 8000"},
		"burst only":     {`{"egressBurst":8000,` + rest + `}`, Limit{}, Limit{}, "egressRate: missing, egressBurst 8000"},
		"negative":       {`{"runtimeConfig":{"bandwidth":{"egressRate":-1,"egressBurst":80}},` + rest + `}`, Limit{}, Limit{}, "runtimeConfig.bandwidth.egressRate -1"},
		"less than byte": {`{"ingressRate":7,"ingressBurst":80,` + rest + `}`, Limit{}, Limit{}, "ingressRate 7"},
		"largest burst":  {`{"ingressRate":8,"ingressBurst":34359738360,` + rest + `}`, Limit{8, 34359738360}, Limit{}, ""},
		"too large":      {`{"ingressRate":8,"ingressBurst":34359738361,` + rest + `}`, Limit{}, Limit{}, "ingressBurst 34359738361"},
		"no number":      {`{"ingressRate":"1M",` + rest + `}`, Limit{}, Limit{}, "ingressRate: a JSON string does not fit, want a whole number"},
	} {
		conf, err := Parse([]byte(c.keys), "")
		if c.words != "" {
			var e *types.Error
			if !errors.As(err, &e) || !strings.Contains(e.Msg, c.words) {
				t.Errorf("%s: %v, want %q", name, err, c.words)
			}
			continue
		}
		if err != nil || conf.Ingress != c.ingress || conf.Egress != c.egress {
			t.Errorf("%s: %+v, %v", name, conf, err)
		}
	}
}
