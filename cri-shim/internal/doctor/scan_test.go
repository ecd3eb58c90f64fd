package doctor

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/cri-shim/internal/podnet"
	"github.com/podwright/podwright/cri-shim/internal/store"
	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// TestLookReadsTheLayout: what is where the layout puts it is found with its owner, and files being written are not.
func TestLookReadsTheLayout(t *testing.T) {
	dir := t.TempDir()
	l := paths.Layout{Root: dir + "/root", State: dir + "/state"}
	records, err := store.New(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := records.PutSandbox(pod.Sandbox{ID: "s", State: pod.Ready}); err != nil {
		t.Fatal(err)
	}
	if err := records.PutContainer(pod.Container{ID: "c", SandboxID: "s"}); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{
		l.Namespaces("s") + "/net", l.Shared("s") + "/hosts", l.Bundle("c") + "/config.json", l.Monitor() + "/containers/c.json",
		l.Monitor() + "/exits/c", l.RuncRoot() + "/c/state.json", l.CNICache() + "/attached/s.conflist", l.CNICache() + "/results/a-net-s-eth0",
		l.Monitor() + "/containers/x.json.durable-tmp-1", l.Pods() + "/torn/sandbox.json",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	users := dir + "/users"
	if err := os.MkdirAll(users+"/net", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(l.CNICache()+"/attached", users+"/net/us"); err != nil {
		t.Fatal(err)
	}
	scan := func() (look, []string) {
		s := &scanner{Options: Options{Layout: l, Network: podnet.Options{CacheDir: l.CNICache(), UsersDir: users}, CgroupParent: "/none-of-this-name"}}
		got, err := s.look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, o := range sorted(got.objects) {
			all = append(all, string(o.Kind)+" "+strings.TrimPrefix(o.Name, dir)+" of "+o.Owner)
		}
		return got, all
	}
	before := tree(t, dir)
	got, all := scan()
	want := []string{
		"CNI attachment /root/cni/attached/s.conflist of s", "CNI result /root/cni/results/a-net-s-eth0 of s", "OCI runtime state /state/runc/c of c",
		"bundle /state/bundles/c of c", "exit record /state/monitor/exits/c of c", "files /state/ns/s/net of s", "files /state/shared/s of s",
		"monitor record /state/monitor/containers/c.json of c", "record directory /root/pods/s of s", "record directory /root/pods/torn of torn",
		"writable layer /root/pods/s/containers/c of c",
	}
	if !slices.Equal(all, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(all, "\n"), strings.Join(want, "\n"))
	}
	if len(got.sandboxes) != 1 || len(got.containers) != 1 || len(got.bad) != 1 || !strings.Contains(got.bad[0].Error(), "torn") {
		t.Errorf("records: %v, %v, bad %v", got.sandboxes, got.containers, got.bad)
	}
	if after := tree(t, dir); !slices.Equal(before, after) {
		t.Errorf("looking changed\n%q to\n%q", before, after)
	}
	// A signature without an attachment says that the network is used when it is not.
	if err := os.Remove(l.CNICache() + "/attached/s.conflist"); err != nil {
		t.Fatal(err)
	}
	if _, all := scan(); !slices.Contains(all, "CNI network signature /users/net/us of ") {
		t.Errorf("got %q", all)
	}
}

func tree(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			all = append(all, path+" "+info.ModTime().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestLeasesThatAreOurs(t *testing.T) {
	dir := t.TempDir()
	plugin := dir + "/bridge-ipam"
	rows := `[{"network":"n","addresses":["10.0.0.2"],"containerID":"a","netns":"/state/ns/a/net","hostLink":"veth1"},
{"network":"n","addresses":["10.0.0.3"],"containerID":"b","netns":"/run/netns/b"}]`
	script := "#!/bin/sh\n[ \"$*\" = \"leases -o json --data-dir " + dir + "\" ] || exit 1\ncat <<E\n" + rows + "\nE\n"
	if err := os.WriteFile(plugin, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &scanner{
		Options: Options{Layout: fixture}, now: seen(nil),
		network: podnet.Inspection{Plugins: map[string]string{"bridge-ipam": plugin}, DataDirs: []string{dir, dir + "/none"}},
	}
	if err := s.leases(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := sorted(s.now.objects); len(got) != 1 || got[0].Name != "10.0.0.2 of network n" || got[0].Owner != "a" {
		t.Errorf("got %+v", got)
	}
	if err := os.WriteFile(plugin, []byte("#!/bin/sh\necho no such command >&2; exit 2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.leases(t.Context()); err == nil || !strings.Contains(err.Error(), "no such command") {
		t.Errorf("a plugin that cannot say: %v", err)
	}
}

func TestPrint(t *testing.T) {
	r := Report{
		Host:      []Finding{{OK, "kernel", "Linux 9", ""}, {Fail, "CNI", "two\nlines", "mend it"}},
		Leftovers: []Object{{Kind: kindMount, Name: "/m", Text: "tmpfs", Advice: "umount /m"}}, Missing: []Object{},
	}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	want := `ok    kernel  Linux 9
fail  CNI     two lines
              → mend it
fail  left behind: mount /m (tmpfs)
      → umount /m
1 left behind, 0 missing, of 0 sandboxes, 0 containers and 0 objects
`
	if b.String() != want || r.Findings() != 2 {
		t.Errorf("%d findings:\n%s", r.Findings(), b.String())
	}
	if j, err := json.Marshal(r); err != nil || !strings.Contains(string(j), `"missing":[]`) {
		t.Errorf("%s, %v", j, err)
	}
}

// TestLinksThatAreOurs: a link is ours by its alias, in a network that nobody else uses.
func TestLinksThatAreOurs(t *testing.T) {
	id := strings.Repeat("ab", 32)
	ns := nettest.NewNS(t)
	s := &scanner{Options: Options{Layout: fixture}, now: seen(nil), network: podnet.Inspection{Alone: []string{"ours"}}}
	nettest.In(t, ns, func() error {
		h, err := netutil.Host()
		if err != nil {
			return err
		}
		defer h.Close()
		for name, alias := range map[string]string{
			"a": "bridge-ipam/0123 ours " + id + " eth0", "b": "bridge-ipam/0123 theirs " + id + " eth0", "c": "bridge-ipam/0123 ours cnitool-1 eth0",
			"d": "something else " + id + " eth0", "e": "bridge-ipam",
		} {
			if err := h.AddVeth(netutil.Veth{Name: name, Peer: "p" + name}); err != nil {
				return err
			}
			l, err := h.Link(name)
			if err != nil {
				return err
			}
			if err := h.SetLink(l.Index, netutil.Change{Alias: alias}); err != nil {
				return err
			}
		}
		return s.links()
	})
	if got := sorted(s.now.objects); len(got) != 1 || got[0].Name != "a" || got[0].Owner != id {
		t.Errorf("got %+v", got)
	}
}
