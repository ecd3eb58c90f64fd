package bridgeipam

import (
	"errors"

	"github.com/containerd/errdefs"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/shaper"
)

// ifbLink is the name of the link that limits what an attachment sends.
func ifbLink(a lease.Attachment) string { return ifbLinkOfKey(a.Key()) }

func ifbLinkOfKey(key string) string { return "bwp" + key[:12] }

// hostLinksOfKey are all links that an attachment may have on the host.
func hostLinksOfKey(key string) []string { return []string{hostLinkOfKey(key), ifbLinkOfKey(key)} }

// limitBandwidth sets the limits while the host end is down: they hold for the first packet.
func (a *adding) limitBandwidth() error {
	if a.lease.Ingress.Rate == 0 && a.lease.Egress.Rate == 0 {
		return nil
	}
	link, err := a.host.Link(a.lease.HostLink)
	if err != nil {
		return err
	}
	if a.lease.Ingress.Rate != 0 {
		if err := shaper.Ingress(a.host, link, shaper.Limit(a.lease.Ingress)); err != nil {
			return err
		}
	}
	if a.lease.Egress.Rate == 0 {
		return nil
	}
	// Crash here: the ifb is found by its name, and by its alias when its lease is gone.
	ifb := shaper.Ifb{Name: ifbLink(a.at), Alias: hostAlias(a.conf.Name, a.at)}
	return shaper.Egress(a.host, link, ifb, shaper.Limit(a.lease.Egress))
}

// ifbInterface is what a result says of the ifb; none when there is no limit.
func (a *adding) ifbInterface() ([]*types100.Interface, error) {
	if a.lease.Egress.Rate == 0 {
		return nil, nil
	}
	l, err := a.host.Link(ifbLink(a.at))
	if err != nil {
		return nil, err
	}
	return []*types100.Interface{{Name: l.Name, Mac: l.MAC.String()}}, nil
}

func (c *checking) checkBandwidth(link netutil.Link) {
	if c.lease.Ingress.Rate != 0 {
		if err := shaper.CheckIngress(c.host, link, shaper.Limit(c.lease.Ingress)); err != nil {
			c.fault("ingress limit: %w", err)
		}
	}
	if c.lease.Egress.Rate != 0 {
		if err := shaper.CheckEgress(c.host, link, ifbLink(c.env.attachment()), shaper.Limit(c.lease.Egress)); err != nil {
			c.fault("egress limit: %w", err)
		}
	}
}

// removeLinks removes the host end and the ifb. Only the host end is deleted by the end of the pod's
// namespace.
func (t teardown) removeLinks(at lease.Attachment, detachOnly bool) error {
	_, err := t.host.Index(ifbLink(at))
	switch {
	case errdefs.IsNotFound(err):
		return t.removeLink(hostLink(at), detachOnly)
	case err != nil:
		return err
	case detachOnly:
		return errors.Join(t.removeLink(hostLink(at), true), t.host.DeleteLink(ifbLink(at)))
	}
	return t.host.DeleteLinks([]string{hostLink(at), ifbLink(at)})
}
