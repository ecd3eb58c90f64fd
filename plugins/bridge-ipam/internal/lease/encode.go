package lease

import (
	"time"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/jsontext"
)

// encode writes a lease as encoding/json does by the tags of its fields.
func (l Lease) encode() []byte {
	var w jsontext.Writer
	w.Object(func() {
		w.Key("format").Int(int64(l.Format))
		w.Key("containerID").String(l.ContainerID)
		w.Key("ifname").String(l.IfName)
		w.Key("network").String(l.Network)
		if l.Addresses == nil {
			w.Key("addresses").Null()
		} else {
			w.Key("addresses").Array(func() {
				for _, a := range l.Addresses {
					w.Text(a)
				}
			})
		}
		w.Key("netns").String(l.NetNS)
		w.Key("netnsInode").Uint(l.NetNSInode)
		w.Key("hostLink").String(l.HostLink)
		if l.MTU != 0 {
			w.Key("mtu").Int(int64(l.MTU))
		}
		w.OmitEmpty("delegate", l.Delegate)
		w.OmitEmpty("masquerade", l.Masquerade)
		l.Ingress.encode(&w, "ingress")
		l.Egress.encode(&w, "egress")
		l.HostPorts.encode(&w)
		l.Guard.encode(&w)
		w.Key("bootID").String(l.BootID)
		w.Key("time").String(l.Time.Format(time.RFC3339Nano))
	})
	return w.Bytes()
}

func (l Limit) encode(w *jsontext.Writer, key string) {
	if l != (Limit{}) {
		w.Key(key).Object(func() {
			w.Key("rate").Uint(l.Rate)
			w.Key("burst").Uint(l.Burst)
		})
	}
}

func (g *Guard) encode(w *jsontext.Writer) {
	if g != nil {
		w.Key("guard").Object(func() {
			w.Key("mac").String(g.MAC)
			w.Key("checkMAC").Bool(g.CheckMAC)
			w.Key("checkAddresses").Bool(g.CheckAddrs)
		})
	}
}

func (p *HostPorts) encode(w *jsontext.Writer) {
	if p == nil {
		return
	}
	w.Key("hostPorts").Object(func() {
		w.Key("link").String(p.Link)
		w.Key("snat").Bool(p.SNAT)
		if p.MasqAll {
			w.Key("masqAll").Bool(true)
		}
		if p.Loopback {
			w.Key("loopback").Bool(true)
		}
		w.Key("forwards").Array(func() {
			for _, f := range p.Forwards {
				w.Object(func() {
					w.Key("protocol").String(f.Protocol)
					w.Key("host").Text(f.Host)
					w.Key("pod").Text(f.Pod)
				})
			}
		})
	})
}
