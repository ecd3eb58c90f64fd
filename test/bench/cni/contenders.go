package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podwright/podwright/test/cni/lab"
)

// bench is one section on its way.
type bench struct {
	settings
	table *table
	stop  chan os.Signal
	nodes []*lab.Node
	pods  []*lab.NS
}

// close removes all nodes and pods, and gives the kernel a moment to clear them away.
func (b *bench) close() {
	for _, p := range b.pods {
		p.Close()
	}
	for _, n := range b.nodes {
		n.Close()
	}
	if len(b.nodes) > 0 {
		time.Sleep(time.Second)
	}
	b.nodes, b.pods = nil, nil
}

// interrupted is asked between measurements.
func (b *bench) interrupted() error {
	select {
	case sig := <-b.stop:
		return fmt.Errorf("%s", sig)
	default:
		return nil
	}
}

const (
	ourName     = "bridge-ipam"
	ourPromised = "bridge-ipam, promise"
	ourRouted   = "bridge-ipam, routed" // no bridge: a host route per pod
)

// contender is one implementation with its settings, on a node of its own.
type contender struct {
	name  string
	node  *lab.Node
	chain lab.Chain
	extra lab.Conf // runtimeConfig of every attachment
	count int
	// beside says how many it already has, in sections that compare such nodes.
	beside string
}

// what a section wants of the contenders.
type wish struct {
	hostPort bool
	subnet   string
	promise  bool   // also ours under a runtime that promises to destroy the namespace after DEL
	one      bool   // of the reference only its default backend
	only     string // one contender, by name
}

// promise is the runtime capability of that name; cri-shim sets it.
const promise = "io.podwright.netns-destroyed"

// contenders makes the nodes.
func (b *bench) contenders(w wish) ([]*contender, error) {
	list := []*contender{{name: ourName}, {name: "reference, iptables"}, {name: "reference, nftables"}}
	if w.one {
		list = list[:2]
	}
	if w.promise {
		list = append(list, &contender{name: ourPromised})
	}
	if w.only == ourRouted {
		list = append(list, &contender{name: ourRouted})
	}
	if w.only != "" {
		list = slices.DeleteFunc(list, func(c *contender) bool { return c.name != w.only })
	}
	for _, c := range list {
		n, err := lab.NewNode()
		if err != nil {
			return nil, err
		}
		b.nodes = append(b.nodes, n)
		c.node = n
		c.configure(b, w)
	}
	return list, nil
}

func (c *contender) configure(b *bench, w wish) {
	subnet := w.subnet
	if subnet == "" {
		subnet = "10.88.0.0/16"
	}
	backend := c.name[strings.LastIndex(c.name, " ")+1:]
	conf := lab.Conf{"type": "bridge", "bridge": "pw0", "isGateway": true, "ipMasq": true, "hairpinMode": w.hostPort,
		"ipam": lab.Conf{"type": "host-local", "dataDir": filepath.Join(c.node.Dir, "leases"),
			"ranges": []any{[]any{lab.Conf{"subnet": subnet}}}, "routes": []any{lab.Conf{"dst": "0.0.0.0/0"}}},
	}
	c.chain = lab.Chain{Name: "net1", Dir: b.tools, Plugins: []lab.Conf{conf}}
	c.extra = lab.Conf{}
	if strings.HasPrefix(c.name, ourName) {
		conf["type"], c.chain.Dir = "bridge-ipam", b.bin
		conf["capabilities"] = lab.Conf{"portMappings": true, promise: true}
		c.extra[promise] = c.name == ourPromised
		if c.name == ourRouted {
			conf["mode"] = "routed"
			delete(conf, "bridge")
			delete(conf, "isGateway")
		}
		return
	}
	conf["ipMasqBackend"] = backend
	if w.hostPort {
		c.chain.Plugins = append(c.chain.Plugins, lab.Conf{"type": "portmap", "snat": true, "backend": backend,
			"capabilities": lab.Conf{"portMappings": true}})
	}
}

// next is a new pod's attachment, not made yet.
func (b *bench) next(c *contender, hostPort int) (lab.Attachment, error) {
	pod, err := lab.NewNS()
	if err != nil {
		return lab.Attachment{}, err
	}
	b.pods = append(b.pods, pod)
	c.count++
	a := lab.Attachment{ID: fmt.Sprintf("%064d", c.count), NetNS: pod.Path(), Runtime: lab.Conf{}}
	for k, v := range c.extra {
		a.Runtime[k] = v
	}
	if hostPort > 0 {
		a.Runtime["portMappings"] = []any{lab.Conf{"hostPort": hostPort, "containerPort": 80, "protocol": "tcp"}}
	}
	return a, nil
}

// refused says whether a contender cannot do it at all (code 2).
func refused(err error) bool {
	var e *lab.Error
	return errors.As(err, &e) && e.Code == 2
}

func missing(program string) bool {
	_, err := exec.LookPath(program)
	return err != nil
}
