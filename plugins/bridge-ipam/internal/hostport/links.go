package hostport

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
)

// Loopback says whether flows from ::1 can lead to pods: not where bridges call ip6tables, see doc.go.
func Loopback(host *netutil.Handle) (bool, error) {
	value, err := host.Sysctl("bridge/bridge-nf-call-ip6tables")
	if errdefs.IsNotFound(err) {
		return true, nil
	}
	return value == "0", err
}

// openLink lets a link carry flows of the node's loopback addresses.
func (e editor) openLink(p lease.HostPorts) error {
	if !p.SNAT || p.Link == "" {
		return nil
	}
	for _, f := range p.Forwards {
		if f.Pod.Addr().Is4() {
			if err := e.host.SetSysctls(routeLocalnet(p.Link, "1")); err != nil {
				return fmt.Errorf("let 127.0.0.1 reach pods: %w", err)
			}
			break
		}
	}
	if !p.Loopback {
		return nil
	}
	link, err := e.host.Link(p.Link)
	if err != nil {
		return err
	}
	return e.host.AddLoopback6(link.Index)
}

func routeLocalnet(link, value string) netutil.Sysctl {
	return netutil.Sysctl{Key: "ipv4/conf/" + link + "/route_localnet", Value: value, Optional: true}
}

// Tidy undoes what is used no more: elements whose host link is gone, what their links and others were given, and with
// the last host port of all networks chains and maps, and the table if nothing else is in it.
func Tidy(host *netutil.Handle, links ...string) error {
	return edit(host, func(e editor) error {
		have, err := e.dump()
		missing := errdefs.IsNotFound(err)
		if err == nil {
			var of []string
			have, of, err = e.dropDead(have)
			links = append(links, of...)
		}
		if err != nil && !missing {
			return err
		}
		for _, link := range links {
			if err := e.closeLink(link, have); err != nil {
				return err
			}
		}
		if len(have) > 0 || missing {
			return nil
		}
		all, err := e.nft.Chains()
		if err != nil {
			return err
		}
		if len(all) > len(chains) {
			remove(e.nft)
		} else {
			e.nft.DeleteTable()
		}
		return ignoreMissing(e.nft.Commit())
	})
}

// dropDead deletes the elements of owners that are gone. It returns the others, and the links that the dead had theirs by.
func (e editor) dropDead(have map[place]netutil.Entry) (alive map[place]netutil.Entry, links []string, err error) {
	var dead []element
	alive = map[place]netutil.Entry{}
	known := map[string]bool{}
	for p, entry := range have {
		is, asked := known[entry.Comment]
		if !asked {
			if is, err = e.alive(entry.Comment); err != nil {
				return nil, nil, err
			}
			known[entry.Comment] = is
		}
		if is {
			alive[p] = entry
			continue
		}
		dead = append(dead, element{in: mapNamed(p.in), Entry: entry})
		if link, is := linkIn(p, entry); is && !slices.Contains(links, link) {
			links = append(links, link)
		}
	}
	each(dead, e.nft.DeleteEntries)
	return alive, links, ignoreMissing(e.nft.Commit())
}

// linkIn is the link by which the node reaches the pod of an element, of those that say so.
func linkIn(p place, entry netutil.Entry) (string, bool) {
	for _, f := range families {
		if p.in == f.snat.Name {
			return entry.Key.LinkOf(), true
		}
	}
	return "", false
}

// closeLink undoes openLink for a link that no element names.
func (e editor) closeLink(name string, have map[place]netutil.Entry) error {
	used := map[bool]bool{}
	for p, entry := range have {
		for _, f := range families {
			if p.in == f.snat.Name && entry.Key.LinkOf() == name {
				used[f.v6] = true
			}
		}
	}
	link, err := e.host.Link(name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var faults []error
	if !used[false] {
		faults = append(faults, e.host.SetSysctls(routeLocalnet(name, "0")))
	}
	if !used[true] {
		faults = append(faults, e.host.DeleteLoopback6(link.Index))
	}
	return errors.Join(faults...)
}
