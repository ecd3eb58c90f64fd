package podnet

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"

	"github.com/podwright/podwright/pkg/durable"
)

// confName is the file made from the template.
const confName = "10-cri-shim.conflist"

// SetPodCIDR takes the pod ranges of this node, "v4", "v6" or "v4,v6", and writes the configuration
// made from the template. Without a template there is nothing to do. The template's fields are those
// of containerd's: .PodCIDR (the first range), .PodCIDRRanges and .Routes (a default route each).
func (n *Network) SetPodCIDR(cidrs string) error {
	var data struct {
		PodCIDR       string
		PodCIDRRanges []string
		Routes        []string
	}
	for _, c := range strings.Split(cidrs, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(c))
		if err != nil {
			return fmt.Errorf("%.80q: want one or two ranges like 10.1.0.0/24,fd00::/64: %w", cidrs, errdefs.ErrInvalidArgument)
		}
		data.PodCIDRRanges = append(data.PodCIDRRanges, p.Masked().String())
		route := "0.0.0.0/0"
		if p.Addr().Is6() {
			route = "::/0"
		}
		data.Routes = append(data.Routes, route)
	}
	data.PodCIDR = data.PodCIDRRanges[0]
	if n.Template == "" {
		return nil
	}
	t, err := template.New(filepath.Base(n.Template)).Option("missingkey=error").ParseFiles(n.Template)
	if err != nil {
		return fmt.Errorf("CNI template: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return fmt.Errorf("CNI template: %w", err)
	}
	if _, err := libcni.NetworkConfFromBytes(out.Bytes()); err != nil {
		return fmt.Errorf("CNI template %s gives no valid configuration: %w", n.Template, err)
	}
	return n.install(out.Bytes())
}

func (n *Network) install(conf []byte) error {
	file := filepath.Join(n.ConfDir, confName)
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, conf) {
		return nil
	}
	if err := os.MkdirAll(n.ConfDir, 0o755); err != nil {
		return fmt.Errorf("make the CNI configuration directory: %w", err)
	}
	if err := durable.WriteFile(file, conf, 0o644, durable.FullSync); err != nil {
		return err
	}
	n.Logger.Info("CNI configuration written from its template", "file", file)
	return nil
}
