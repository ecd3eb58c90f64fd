package bridgeipam_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// say runs the plugin on the node as a person does.
func (n *node) say(stdin string, args ...string) answer {
	n.t.Helper()
	var out, errs strings.Builder
	cmd := exec.Command(binary, args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = []string{}, strings.NewReader(stdin), &out, &errs
	nettest.In(n.t, n.ns, cmd.Start)
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		n.t.Fatal(err)
	}
	return answer{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// TestLeases: who has which address, in both forms, whatever made the lease.
func TestLeases(t *testing.T) {
	n := newNode(t)
	path := cniPath(t)
	ipam := ranges("10.11.0.0/24", "fd11::/64")
	keys := map[string]any{"ipam": ipam}
	gone, alive, only := nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)
	keys["type"], keys["ipMasq"] = "bridge", false
	n.answered(call{cmd: "ADD", id: "old", ifName: "eth0", netns: nettest.NewNS(t), conf: n.conf(keys), path: path, program: filepath.Join(path, "bridge")})
	keys["type"] = "bridge-ipam"
	n.add("alive", alive, n.conf(keys))
	n.add("gone", gone, n.conf(keys))
	ipam["type"], keys["type"] = "bridge-ipam", "macvlan"
	n.answered(call{cmd: "ADD", id: "only", ifName: "net1", netns: only, conf: n.conf(keys)})
	ip(t, gone, "link", "del", "eth0")
	nettest.DeleteNS(t, gone)

	a := n.say("", "leases", "--data-dir", n.data, "-o", "json")
	var rows []struct {
		Network, ContainerID, IfName, From string
		Addresses                          []string
		Since                              time.Time
		Alive                              *bool
	}
	if err := json.Unmarshal([]byte(a.stdout), &rows); err != nil || a.code != 0 || len(rows) != 5 { // host-local's are one for each address
		t.Fatalf("%v: %+v", err, a)
	}
	for _, r := range rows {
		want := map[string]string{"alive": "true", "gone": "false", "only": "true", "old": "null"}[r.ContainerID]
		got, _ := json.Marshal(r.Alive)
		if string(got) != want || r.Network != "net" || time.Since(r.Since) > time.Hour || (r.From == "host-local") != (r.ContainerID == "old") {
			t.Errorf("%+v: alive is %s, want %s", r, got, want)
		}
		if r.ContainerID != "old" && len(r.Addresses) != 2 {
			t.Errorf("%+v", r)
		}
	}
	a = n.say("", "leases", "-data-dir="+n.data)
	for _, want := range []string{"NETWORK", "10.11.0.3,fd11::3  alive", "no\n", "unknown (host-local)", "net1"} {
		if !strings.Contains(a.stdout, want) || a.code != 0 {
			t.Errorf("%q is not in\n%s%s", want, a.stdout, a.stderr)
		}
	}
	if a := n.say("", "leases", "--data-dir", "/nonexistent"); a.code != 1 || !strings.Contains(a.stderr, "/nonexistent") {
		t.Errorf("%+v", a)
	}
	if a := n.say("", "leases", "--data-dir", t.TempDir(), "-o", "json"); a.code != 0 || a.stdout != "[]\n" {
		t.Errorf("%+v", a)
	}
}

// TestPeopleCalls: exit codes, and which stream says what.
func TestPeopleCalls(t *testing.T) {
	n := newNode(t)
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{nil, 2, "", "check-config FILE"},
		{[]string{"help"}, 0, "check-config FILE", ""},
		{[]string{"--help"}, 0, "1.1.0", ""},
		{[]string{"leases", "-h"}, 0, "--data-dir", ""},
		{[]string{"version"}, 0, "CNI 0.1.0", ""},
		{[]string{"lease"}, 2, "", `"lease": no such command`},
		{[]string{"leases", "-o", "yaml"}, 2, "", `-o "yaml": want table or json`},
		{[]string{"leases", "x"}, 2, "", `"x"`},
		{[]string{"leases", "--nope"}, 2, "", "nope"},
		{[]string{"check-config"}, 2, "", "want one file"},
		{[]string{"check-config", "a", "b"}, 2, "", "want one file"},
		{[]string{"check-config", "/nonexistent"}, 1, "", "/nonexistent"},
		{[]string{"check-config", "/"}, 1, "", "directory"},
		{[]string{"check-config", "/dev/zero"}, 1, "", "larger than"},
	} {
		a := n.say("", c.args...)
		if a.code != c.code || !strings.Contains(a.stdout, c.stdout) || !strings.Contains(a.stderr, c.stderr) ||
			(c.stdout == "") != (a.stdout == "") || (c.stderr == "") != (a.stderr == "") {
			t.Errorf("%q: %+v", c.args, a)
		}
	}
}

// TestCheckConfig names every fault at once, with its place, and keys that nothing reads.
func TestCheckConfig(t *testing.T) {
	n := newNode(t)
	for name, c := range map[string]struct {
		conf  string
		code  int
		lines []string
	}{
		"fine":      {n.conf(nil), 0, []string{"-: fine"}},
		"not JSON":  {`{"name":`, 1, []string{"it ends in the middle"}},
		"a list":    {`[]`, 1, []string{"want an object"}},
		"version":   {n.conf(map[string]any{"cniVersion": "1.2.0"}), 1, []string{`cniVersion "1.2.0": not supported`}},
		"old":       {n.conf(map[string]any{"cniVersion": "1.0.0"}), 0, []string{`note: cniVersion "1.0.0": has no GC`}},
		"two types": {n.conf(map[string]any{"mtu": "x", "bridge": 7, "name": "a/b"}), 1, []string{"mtu: a JSON string", "bridge: a JSON number", `name "a/b"`}},
		"plugins": {`{"cniVersion":"1.1.0","plugins":[{"type":"bridge-ipam","mtu":"x","brigde":"a","vlan":[],"mode":"l2","bridge":"a/b",
			"ipam":{"ranges":[[{"subnet":"10.0.0.1/8","gatway":"1"}]],"dataDir":"rel"}},{"type":"portmap"}]}`, 1, []string{
			"plugins[0]: mtu:", "plugins[0]: vlan:", "plugins[0]: name: missing", `plugins[0]: bridge "a/b"`, `plugins[0]: ipam.dataDir "rel"`,
			"ipam.ranges[0][0].subnet 10.0.0.1/8", `plugins[0]: mode "l2"`, "note: plugins[0]: brigde: nothing", "ipam.ranges.gatway: nothing", `plugins[1]: of type "portmap"`,
		}},
		"addresses": {n.conf(map[string]any{"type": "macvlan", "master": 7, "ipam": map[string]any{"type": "bridge-ipam", "subnet": "x"}}), 1,
			[]string{`ipam.subnet "x"`}},
		"none of ours": {`{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"portmap"}]}`, 1, []string{"none has the type"}},
		"no plugins":   {`{"cniVersion":"1.1.0","name":"n","plugins":7}`, 1, []string{"plugins: want a list"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := n.say(c.conf, "check-config", "-")
			if a.code != c.code {
				t.Errorf("exit %d: %s%s", a.code, a.stdout, a.stderr)
			}
			for _, want := range c.lines {
				if !strings.Contains(a.stdout, want) {
					t.Errorf("%q is not in\n%s", want, a.stdout)
				}
			}
		})
	}
	n.clean()
}

// TestSamples: each sample that is shipped is fine, but for the one that shows what is replaced.
func TestSamples(t *testing.T) {
	n := newNode(t)
	files, err := filepath.Glob("../../conf/cni/*.conflist")
	ok(t, err)
	if len(files) < 6 {
		t.Fatalf("samples: %v", files)
	}
	for _, file := range files {
		_, err := os.Stat(file)
		ok(t, err)
		a := n.say("", "check-config", file)
		if want := strings.HasSuffix(file, "-before.conflist"); (a.code == 1) != want || strings.Contains(a.stdout, "nothing reads") {
			t.Errorf("%s: %s%s", file, a.stdout, a.stderr)
		}
	}
}
