package bridgeipam

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/lease"
	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// row is one lease for people.
type row struct {
	Network     string       `json:"network"`
	Addresses   []netip.Addr `json:"addresses"`
	ContainerID string       `json:"containerID"`
	IfName      string       `json:"ifname"`
	Since       time.Time    `json:"since"`
	// Alive: true when the owner is there, false when it is provably gone, null when it cannot be known.
	Alive    *bool  `json:"alive"`
	NetNS    string `json:"netns,omitempty"`
	HostLink string `json:"hostLink,omitempty"`
	From     string `json:"from,omitempty"` // the plugin that gave the addresses, when it is another one
}

// leases lists what is below a data directory.
func leases(p Process, args []string) error {
	set := flag.NewFlagSet("leases", flag.ContinueOnError)
	output := set.String("o", "table", "")
	dataDir := set.String("data-dir", netconf.DefaultDataDir, "")
	rest, err := parseFlags(set, p, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return wrongUsage(fmt.Sprintf("leases: %q is one argument too many", rest[0]))
	}
	if *output != "table" && *output != "json" {
		return wrongUsage(fmt.Sprintf("leases: -o %q: want table or json", *output))
	}
	rows, err := readRows(*dataDir)
	if err != nil {
		return err
	}
	if *output == "json" {
		enc := json.NewEncoder(p.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	}
	return printTable(p, rows)
}

func printTable(p Process, rows []row) error {
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NETWORK\tADDRESS\tCONTAINER\tINTERFACE\tSINCE\tALIVE")
	for _, r := range rows {
		var addrs []string
		for _, a := range r.Addresses {
			addrs = append(addrs, a.String())
		}
		alive := "unknown"
		if r.Alive != nil {
			alive = map[bool]string{true: "yes", false: "no"}[*r.Alive]
		}
		if r.From != "" {
			alive += " (" + r.From + ")"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Network, cmp.Or(strings.Join(addrs, ","), "-"),
			cmp.Or(r.ContainerID, "-"), cmp.Or(r.IfName, "-"), r.Since.Local().Format(time.DateTime), alive)
	}
	return w.Flush()
}

// readRows reads every network; a directory that is none has no rows.
func readRows(dataDir string) ([]row, error) {
	boot, err := readBootID()
	if err != nil {
		return nil, err
	}
	networks, err := os.ReadDir(dataDir)
	if errors.Is(err, os.ErrNotExist) && dataDir == netconf.DefaultDataDir {
		err = nil // nobody had a lease since the boot
	}
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	host, err := netutil.Host()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	present, err := linkNames(host)
	if err != nil {
		return nil, err
	}
	beside := dataDir
	if dataDir == netconf.DefaultDataDir {
		beside = netconf.HostLocalDir
	}
	rows := []row{}
	for _, n := range networks {
		if !n.IsDir() {
			continue
		}
		store := lease.New(dataDir, n.Name(), boot).Beside(beside)
		some, err := rowsOf(store, n.Name(), boot, present)
		if err != nil {
			return nil, err
		}
		rows = append(rows, some...)
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(strings.Compare(a.Network, b.Network), slices.CompareFunc(a.Addresses, b.Addresses, netip.Addr.Compare))
	})
	return rows, nil
}

func rowsOf(store *lease.Store, network, boot string, present map[string]bool) ([]row, error) {
	entries, err := store.All()
	if err != nil {
		return nil, err
	}
	var rows []row
	known := map[lease.Attachment]bool{}
	for _, e := range entries {
		l := e.Lease
		if e.Damaged == nil && l.BootID != boot {
			continue // of an older boot: the next ADD drops it
		}
		known[l.Attachment] = true
		rows = append(rows, row{
			Network: network, Addresses: l.Addresses, ContainerID: l.ContainerID, IfName: l.IfName, Since: l.Time,
			Alive: alive(e, present), NetNS: l.NetNS, HostLink: l.HostLink, From: l.Delegate,
		})
	}
	adopted, err := store.Adopted()
	if err != nil {
		return nil, err
	}
	for _, a := range adopted {
		if !known[a.Attachment] { // else it is one of ours, in host-local's form
			rows = append(rows, row{
				Network: network, Addresses: []netip.Addr{a.Addr}, ContainerID: a.ContainerID, IfName: a.IfName, Since: a.Since, From: "host-local",
			})
		}
	}
	return rows, nil
}

// alive is what can be known from this namespace: the host's end of the link, else the namespace.
func alive(e lease.Entry, present map[string]bool) *bool {
	yes, no := true, false
	switch {
	case present[hostLinkOfKey(e.Key)]:
		return &yes
	case namespaceGone(e):
		return &no
	case e.Lease.HostLink == "" && e.Lease.NetNSInode != 0:
		return &yes
	}
	return nil
}
