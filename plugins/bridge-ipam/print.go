package bridgeipam

import (
	"io"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/jsontext"
)

// printResult writes what Result.PrintTo does. Results of versions before 1.0.0 are left to it.
func printResult(w io.Writer, res types.Result) error {
	r, ok := res.(*types100.Result)
	if !ok {
		return res.PrintTo(w)
	}
	_, err := w.Write(encodeResult(r))
	return err
}

// encodeResult has all keys in alphabetical order, as the library's encoder has them, and none of an empty value.
func encodeResult(r *types100.Result) []byte {
	w := jsontext.Writer{Indent: "    "}
	w.Object(func() {
		w.OmitEmpty("cniVersion", r.CNIVersion)
		if !r.DNS.IsEmpty() {
			encodeDNS(&w, r.DNS)
		}
		list(&w, "interfaces", r.Interfaces, func(i *types100.Interface) {
			w.OmitEmpty("mac", i.Mac)
			number(&w, "mtu", i.Mtu)
			w.Key("name").String(i.Name)
			w.OmitEmpty("pciID", i.PciID)
			w.OmitEmpty("sandbox", i.Sandbox)
			w.OmitEmpty("socketPath", i.SocketPath)
		})
		list(&w, "ips", r.IPs, func(ip *types100.IPConfig) {
			w.Key("address").Text(&ip.Address)
			address(&w, "gateway", ip.Gateway)
			pointer(&w, "interface", ip.Interface)
		})
		list(&w, "routes", r.Routes, func(r *types.Route) {
			number(&w, "advmss", r.AdvMSS)
			w.Key("dst").Text(&r.Dst)
			address(&w, "gw", r.GW)
			number(&w, "mtu", r.MTU)
			number(&w, "priority", r.Priority)
			pointer(&w, "scope", r.Scope)
			pointer(&w, "table", r.Table)
		})
	})
	return w.Bytes()
}

func encodeDNS(w *jsontext.Writer, d types.DNS) {
	texts := func(key string, values []string) {
		if len(values) > 0 {
			w.Key(key).Array(func() {
				for _, s := range values {
					w.String(s)
				}
			})
		}
	}
	w.Key("dns").Object(func() {
		w.OmitEmpty("domain", d.Domain)
		texts("nameservers", d.Nameservers)
		texts("options", d.Options)
		texts("search", d.Search)
	})
}

// list writes objects, whose members f writes.
func list[T any](w *jsontext.Writer, key string, all []*T, f func(*T)) {
	if len(all) == 0 {
		return
	}
	w.Key(key).Array(func() {
		for _, v := range all {
			w.Object(func() { f(v) })
		}
	})
}

func number(w *jsontext.Writer, key string, n int) {
	if n != 0 {
		w.Key(key).Int(int64(n))
	}
}

func pointer(w *jsontext.Writer, key string, n *int) {
	if n != nil {
		w.Key(key).Int(int64(*n))
	}
}

func address(w *jsontext.Writer, key string, ip net.IP) {
	if len(ip) > 0 {
		w.Key(key).Text(ip)
	}
}
