package podnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
)

// Inspection is what can be seen of the pod network from outside of a running cri-shim.
type Inspection struct {
	Network string            // of the configuration that new pods get
	Plugins map[string]string // type → binary, of that and of what is attached; "" when there is none
	Fault   error             // why no pod can be attached
	// DataDirs are the directories that bridge-ipam was told to keep leases in, "" being its own choice.
	DataDirs []string
	// Alone are the networks that no other runtime uses: who is attached to them is ours.
	Alone []string
}

// Inspect looks at configurations and plugins and asks these for their status. It changes nothing.
func Inspect(ctx context.Context, o Options) (Inspection, error) {
	n := &Network{Options: o}
	n.Logger = slog.New(slog.DiscardHandler)
	n.cni = libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.CacheDir, newProgram(n.Options))
	in := Inspection{Plugins: map[string]string{}}
	lists, err := n.inUse()
	if err != nil {
		return in, err
	}
	current, err := n.load()
	if err != nil {
		in.Fault = err
	} else {
		in.Network, in.Fault = current.Name, n.installed(current)
		lists = append(lists, current)
	}
	for _, list := range lists {
		if err := n.inspectList(&in, list); err != nil {
			return in, err
		}
	}
	if in.Fault == nil {
		ctx, cancel := context.WithTimeout(ctx, statusLimit)
		defer cancel()
		if err := n.cni.GetStatusNetworkList(ctx, current); err != nil {
			in.Fault = fmt.Errorf("CNI STATUS %s: %w", current.Name, errors.Join(err, ctx.Err()))
		}
	}
	return in, nil
}

// inUse reads the configurations by which sandboxes are attached. One that is torn tells nothing.
func (n *Network) inUse() ([]*libcni.NetworkConfigList, error) {
	ids, err := n.attached()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var lists []*libcni.NetworkConfigList
	for _, id := range ids {
		b, err := os.ReadFile(n.intent(id))
		if err != nil {
			continue // given back meanwhile
		}
		if list, err := libcni.NetworkConfFromBytes(b); err == nil {
			lists = append(lists, list)
		}
	}
	return lists, err
}

func (n *Network) inspectList(in *Inspection, list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		if _, known := in.Plugins[p.Network.Type]; !known {
			in.Plugins[p.Network.Type], _ = invoke.FindInPath(p.Network.Type, n.BinDirs) // "" when there is none
		}
		var conf struct {
			IPAM struct {
				DataDir string `json:"dataDir"`
			} `json:"ipam"`
		}
		if p.Network.Type == "bridge-ipam" && json.Unmarshal(p.Bytes, &conf) == nil && !slices.Contains(in.DataDirs, conf.IPAM.DataDir) {
			in.DataDirs = append(in.DataDirs, conf.IPAM.DataDir)
		}
	}
	if slices.Contains(in.Alone, list.Name) {
		return nil
	}
	others, err := n.otherUsers(list.Name)
	if err == nil && len(others) == 0 {
		in.Alone = append(in.Alone, list.Name)
	}
	return err
}

// Kept is what is on disk of one attachment.
type Kept struct {
	ID     string // of the sandbox
	File   string
	Result bool // libcni's result of ADD, else our intent
}

// Keeps lists what a cache directory keeps of attachments, without reading more than it must.
func Keeps(cacheDir string) ([]Kept, error) {
	n := &Network{Options: Options{CacheDir: cacheDir}}
	ids, err := n.attached()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []Kept
	for _, id := range ids {
		out = append(out, Kept{ID: id, File: n.intent(id)})
	}
	results := filepath.Join(cacheDir, "results")
	files, err := os.ReadDir(results)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the results of ADD: %w", err)
	}
	for _, f := range files {
		// <network>-<sandbox>-<interface> (libcni)
		if parts := strings.Split(f.Name(), "-"); len(parts) >= 3 {
			out = append(out, Kept{ID: parts[len(parts)-2], File: filepath.Join(results, f.Name()), Result: true})
		}
	}
	return out, nil
}

// Signed lists the links by which a cache directory's owner signs that it uses networks.
func Signed(usersDir, cacheDir string) ([]string, error) {
	n := &Network{Options: Options{CacheDir: cacheDir, UsersDir: usersDir}}
	all, err := filepath.Glob(filepath.Join(usersDir, "*", "*"))
	return slices.DeleteFunc(all, func(link string) bool {
		target, err := os.Readlink(link)
		return err != nil || target != n.intents()
	}), err
}
