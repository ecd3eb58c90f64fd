package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/podnet"
	"github.com/podwright/podwright/cri-shim/internal/store"
	"github.com/podwright/podwright/pkg/netutil"
)

// askLimit bounds each question to another program.
const askLimit = 20 * time.Second

// scanner takes looks.
type scanner struct {
	Options
	network podnet.Inspection
	now     look // the one being taken
}

func (s *scanner) look(ctx context.Context) (look, error) {
	facts, err := hostinfo.Collect()
	if err != nil {
		return look{}, err
	}
	s.now = look{
		layout: s.Layout, boot: facts.BootID, sandboxes: map[string]pod.Sandbox{}, containers: map[string]pod.Container{},
		objects: map[string]Object{},
	}
	sandboxes, containers, bad, err := store.Look(s.Layout)
	if err != nil {
		return look{}, fmt.Errorf("read records: %w", err)
	}
	s.now.bad = bad
	for _, r := range sandboxes {
		s.now.sandboxes[string(r.ID)] = r
	}
	for _, r := range containers {
		s.now.containers[string(r.ID)] = r
	}
	err = errors.Join(s.mounts(), s.directories(), s.attachments(), s.cgroupDirs(), s.leases(ctx), s.links())
	return s.now, err
}

func (s *scanner) add(o Object) { s.now.objects[o.key()] = o }

// temporary marks files that are being written (pkg/durable).
const temporary = ".durable-tmp-"

// directories adds what the layout names after a sandbox or a container.
func (s *scanner) directories() error {
	l := s.Layout
	var faults []error
	each := func(dir string, f func(path, name string)) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			faults = append(faults, fmt.Errorf("look into %s: %w", dir, err))
		}
		for _, e := range entries {
			if !strings.Contains(e.Name(), temporary) {
				f(filepath.Join(dir, e.Name()), e.Name())
			}
		}
	}
	plain := func(dir string, k Kind, advice string) {
		each(dir, func(path, name string) {
			s.add(Object{Kind: k, Name: path, Owner: strings.TrimSuffix(name, ".json"), Advice: advice + " " + path})
		})
	}
	plain(filepath.Dir(l.Shared("x")), kindFiles, "rm -r --one-file-system")
	plain(filepath.Dir(l.Bundle("x")), kindBundle, "rm -r --one-file-system")
	plain(filepath.Join(l.Monitor(), "containers"), kindMonitor, "Restart cri-monitor without containers, or: rm")
	plain(filepath.Join(l.Monitor(), "exits"), kindExit, "Restart cri-monitor without containers, or: rm")
	each(l.RuncRoot(), func(path, name string) {
		s.add(Object{Kind: kindRuntime, Name: path, Owner: name, Advice: "runc --root " + l.RuncRoot() + " delete --force " + name})
	})
	each(filepath.Dir(l.Namespaces("x")), func(path, id string) {
		empty := true
		each(path, func(file, name string) {
			empty = false
			if s.now.has(kindNamespace, file) {
				return
			}
			s.add(Object{Kind: kindFiles, Name: file, Owner: id, Text: "pins nothing", Advice: "rm " + file + "; rmdir " + path})
		})
		if empty {
			s.add(Object{Kind: kindFiles, Name: path, Owner: id, Text: "pins nothing", Advice: "rmdir " + path})
		}
	})
	each(l.Pods(), func(path, id string) {
		s.add(Object{Kind: kindDirectory, Name: path, Owner: id, Advice: "Start cri-shim, which sweeps empty ones; else look what is in it, and remove it"})
		each(filepath.Join(path, "containers"), func(path, name string) {
			s.add(Object{Kind: kindLayer, Name: path, Owner: name, Advice: "rm -r --one-file-system " + path})
		})
	})
	return errors.Join(faults...)
}

// mounts adds what is mounted below our directories.
func (s *scanner) mounts() error {
	all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !below(m.Mountpoint, s.Layout.State) && !below(m.Mountpoint, s.Layout.Root), false
	})
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	for _, m := range all {
		o := Object{Kind: kindMount, Name: m.Mountpoint, Owner: s.ownerOf(m.Mountpoint), Text: m.FSType, Advice: "umount " + m.Mountpoint}
		if m.FSType == "nsfs" && below(m.Mountpoint, filepath.Join(s.Layout.State, "ns")) {
			o.Kind, o.Text = kindNamespace, m.Root
			o.Advice += "; rm " + m.Mountpoint + "; rmdir " + filepath.Dir(m.Mountpoint)
		}
		s.add(o)
	}
	return nil
}

func below(path, dir string) bool { return strings.HasPrefix(path, filepath.Clean(dir)+"/") }

// ownerOf is the id in a path of the layout: state/ns/<id>/net, state/bundles/<id>/rootfs, root/pods/<id>/….
func (s *scanner) ownerOf(path string) string {
	for _, dir := range []string{s.Layout.State + "/ns", s.Layout.State + "/shared", s.Layout.State + "/bundles", s.Layout.Pods()} {
		if below(path, dir) {
			id, _, _ := strings.Cut(strings.TrimPrefix(path, filepath.Clean(dir)+"/"), "/")
			return id
		}
	}
	return ""
}

// attachments adds what podnet keeps.
func (s *scanner) attachments() error {
	kept, err := podnet.Keeps(s.Network.CacheDir)
	if err != nil {
		return err
	}
	busy := false
	const advice = "Start cri-shim: with cni.gc it gives it back by CNI DEL"
	for _, k := range kept {
		o := Object{Kind: kindAttachment, Name: k.File, Owner: k.ID, Advice: advice}
		if k.Result {
			o.Kind, o.Advice = kindResult, "rm "+k.File
		} else {
			busy = true
		}
		s.add(o)
	}
	signed, err := podnet.Signed(s.Network.UsersDir, s.Network.CacheDir)
	if !busy {
		for _, link := range signed {
			s.add(Object{Kind: kindSignature, Name: link, Text: "nothing is attached", Advice: "rm " + link})
		}
	}
	return err
}

var idForm = regexp.MustCompile(`[0-9a-f]{64}`)

// cgroupDirs adds the cgroups in our own parent and in those of the records. Others' parents have others' cgroups too.
func (s *scanner) cgroupDirs() error {
	parents := []string{s.CgroupParent}
	for _, r := range s.now.sandboxes {
		if p := r.Config.CgroupParent; p != "" && !slices.Contains(parents, p) {
			parents = append(parents, p)
		}
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	for _, parent := range parents {
		path := filepath.Clean("/" + parent)
		if strings.HasSuffix(parent, ".slice") && !strings.Contains(parent, "/") {
			path = cgroupfs.Slice(parent)
		}
		for _, m := range mounts {
			if path != "/" {
				s.cgroupsIn(m.Mountpoint, path)
			}
		}
	}
	return nil
}

func (s *scanner) cgroupsIn(mount, parent string) {
	entries, _ := os.ReadDir(filepath.Join(mount, parent)) // not in this hierarchy
	for _, e := range entries {
		id := idForm.FindString(e.Name())
		if !e.IsDir() || id == "" {
			continue
		}
		name := filepath.Join(parent, e.Name())
		o := Object{Kind: kindCgroup, Name: name, Owner: id, Advice: "rmdir " + mount + name + ", in every hierarchy"}
		if procs, _ := os.ReadFile(filepath.Join(mount, name, "cgroup.procs")); len(procs) > 0 {
			o.Text = "processes " + strings.Join(strings.Fields(string(procs)), ", ")
			o.Advice = "End its processes first: kill -9 " + strings.Join(strings.Fields(string(procs)), " ")
		}
		if s.now.objects[o.key()].Text == "" {
			s.add(o)
		}
	}
}

// leases asks bridge-ipam for those whose namespace is one of ours.
func (s *scanner) leases(ctx context.Context) error {
	plugin := s.network.Plugins["bridge-ipam"]
	if plugin == "" {
		return nil
	}
	var faults []error
	for _, dir := range s.network.DataDirs {
		rows, err := askLeases(ctx, plugin, dir)
		faults = append(faults, err)
		for _, r := range rows {
			if !below(r.NetNS, filepath.Join(s.Layout.State, "ns")) {
				continue
			}
			var addresses []string
			for _, a := range r.Addresses {
				addresses = append(addresses, a.String())
			}
			s.add(Object{
				Kind: kindLease, Name: strings.Join(addresses, ", ") + " of network " + r.Network, Owner: r.ContainerID, Text: r.HostLink,
				Advice: "Start cri-shim: with cni.gc it gives it back by CNI GC",
			})
		}
	}
	return errors.Join(faults...)
}

// leaseRow is what `bridge-ipam leases -o json` says.
type leaseRow struct {
	Network     string       `json:"network"`
	Addresses   []netip.Addr `json:"addresses"`
	ContainerID string       `json:"containerID"`
	NetNS       string       `json:"netns"`
	HostLink    string       `json:"hostLink"`
}

func askLeases(ctx context.Context, plugin, dir string) ([]leaseRow, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	args := []string{"leases", "-o", "json"}
	if dir != "" {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil, nil // nobody has had a lease
		}
		args = append(args, "--data-dir", dir)
	}
	out, err := exec.CommandContext(ctx, plugin, args...).Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(failed.Stderr)))
		}
		return nil, fmt.Errorf("ask bridge-ipam for its leases: %w", err)
	}
	var rows []leaseRow
	if err := json.Unmarshal(out, &rows); err != nil {
		return nil, fmt.Errorf("ask bridge-ipam for its leases: %w", err)
	}
	return rows, nil
}

// links adds the host ends whose alias tells of a network that only we use.
func (s *scanner) links() error {
	h, err := netutil.Host()
	if err != nil {
		return err
	}
	defer h.Close()
	all, err := h.Links()
	if err != nil {
		return err
	}
	for _, l := range all {
		// bridge-ipam/<hash> <network> <sandbox> <interface>
		f := strings.Fields(l.Alias)
		if len(f) < 3 || !strings.HasPrefix(f[0], "bridge-ipam/") || !slices.Contains(s.network.Alone, f[1]) || !idForm.MatchString(f[2]) {
			continue
		}
		s.add(Object{Kind: kindLink, Name: l.Name, Owner: f[2], Text: l.Alias, Advice: "Start cri-shim: with cni.gc bridge-ipam removes it. Else: ip link delete " + l.Name})
	}
	return nil
}
