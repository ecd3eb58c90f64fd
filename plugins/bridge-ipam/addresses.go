package bridgeipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/ipam"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// addAddresses is ADD for another plugin that makes the link: a lease, and a result without interfaces. Asked
// again for the same attachment it gives the same addresses: who asks was killed before it could use them.
func (p *plugin) addAddresses(conf *netconf.Config) (types.Result, error) {
	dns, err := dnsOf(conf)
	if err != nil {
		return nil, err
	}
	host, err := netutil.Host()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	store, err := p.store(conf.Identity).Lock()
	if err != nil {
		return nil, ioFailure(err)
	}
	given, err := p.leaseAddresses(store, conf, host)
	if err = errors.Join(err, store.Unlock()); err != nil {
		return nil, err
	}
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Routes: conf.Routes, DNS: dns}
	var addrs []netip.Addr
	for _, g := range given {
		res.IPs = append(res.IPs, &types100.IPConfig{Address: ipNetOf(g.prefix()), Gateway: g.from.Gateway.AsSlice()})
		addrs = append(addrs, g.addr)
	}
	if err := netutil.FlushUDP(addrs...); err != nil {
		p.log.Warn("flush UDP flows", "error", err)
	}
	return res.GetAsVersion(p.version)
}

func (p *plugin) leaseAddresses(store *lease.Locked, conf *netconf.Config, host *netutil.Handle) ([]given, error) {
	at := p.env.attachment()
	old, err := store.Find(at)
	if err == nil {
		if given := sameAgain(old, conf); given != nil {
			return given, nil
		}
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	if err := store.Release(at); err != nil {
		return nil, err
	}
	given, err := allocate(store, conf, host)
	if err != nil {
		return nil, err
	}
	l := lease.Lease{Attachment: at, Network: conf.Name, NetNS: p.env.netns, Time: time.Now().UTC()}
	// Without the inode (CNI_NETNS may be anything here) the lease ends by DEL or GC only.
	l.NetNSInode, _ = netutil.InodeAt(p.env.netns)
	for _, g := range given {
		l.Addresses = append(l.Addresses, g.addr)
	}
	if _, err := noteGiven(store, given); err != nil {
		return nil, err
	}
	return given, store.Commit(l)
}

// sameAgain are the addresses of a lease when they still are one of each range set, and those asked for.
func sameAgain(old lease.Lease, conf *netconf.Config) []given {
	if len(old.Addresses) != len(conf.Sets) {
		return nil
	}
	var out []given
	for i, addr := range old.Addresses {
		r, ok := conf.Sets[i].Find(addr)
		if !ok {
			return nil
		}
		out = append(out, given{addr, ipam.Range{Subnet: r.Subnet, Gateway: r.Gateway}})
	}
	for _, want := range conf.Requested {
		if !slices.Contains(old.Addresses, want) {
			return nil
		}
	}
	return out
}

// checkAddresses is CHECK for another plugin: each address is leased to whom prevResult says.
func (p *plugin) checkAddresses(conf *netconf.Config) error {
	store := p.store(conf.Identity)
	l, err := store.Find(p.env.attachment())
	if errdefs.IsNotFound(err) {
		adopted, e := store.AdoptedBy(p.env.attachment())
		if e == nil && len(adopted) > 0 {
			return nil
		}
	}
	if err != nil {
		return err
	}
	for _, addr := range l.Addresses {
		if !slices.ContainsFunc(conf.PrevResult.IPs, func(ip *types100.IPConfig) bool {
			have, _ := netip.AddrFromSlice(ip.Address.IP)
			return have.Unmap() == addr
		}) {
			return fmt.Errorf("lease of %s %s: %s is not in prevResult", l.ContainerID, l.IfName, addr)
		}
	}
	return nil
}
