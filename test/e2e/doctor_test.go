package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// report is what cri-shim doctor -o json says.
type report struct {
	Host               []struct{ Level, Check, Text, Advice string }
	Leftovers, Missing []struct{ Kind, Name, Owner, Text, Advice string }
	Looked             struct{ Sandboxes, Containers, Objects int }
}

// found is every finding, by kind and name.
func (r report) found() []string {
	out := []string{}
	for _, f := range r.Host {
		if f.Level == "fail" {
			out = append(out, "host: "+f.Check)
		}
	}
	for _, o := range r.Leftovers {
		out = append(out, "left: "+o.Kind+" "+o.Name)
	}
	for _, o := range r.Missing {
		out = append(out, "missing: "+o.Kind+" "+o.Name)
	}
	slices.Sort(out)
	return out
}

func (n *tester) doctor(args ...string) (report, int) {
	n.t.Helper()
	out, exit, err := n.Doctor(append(args, "-o", "json")...)
	n.must(err)
	var r report
	n.must(json.Unmarshal([]byte(out), &r))
	return r, exit
}

// healthy: the doctor finds nothing, and has looked at something if there is something.
func (n *tester) healthy(when string, sandboxes, containers int) {
	n.t.Helper()
	r, exit := n.doctor()
	if found := r.found(); exit != 0 || len(found) != 0 {
		n.t.Errorf("%s: exit %d: %q", when, exit, found)
	}
	if r.Looked.Sandboxes != sandboxes || r.Looked.Containers != containers || (r.Looked.Objects > 0) != (sandboxes > 0) {
		n.t.Errorf("%s: looked at %+v, want %d sandboxes and %d containers", when, r.Looked, sandboxes, containers)
	}
}

// TestDoctorOfTheHealthy: before, beside, between and after runs of cri-shim there is nothing to find.
func TestDoctorOfTheHealthy(t *testing.T) {
	n := prepareNode(t)
	n.healthy("before the first start", 0, 0)
	n.must(n.AddHandler("newest", filepath.Join(programs.Tools, "runc")))
	n.must(n.Start())
	n.crictl("pull", image)
	n.healthy("without pods", 0, 0)
	file, err := n.File("pod-shared.json", n.PodJSON("shared", true))
	n.must(err)
	shared := n.crictl("runp", file)
	n.run(shared, "shared", "main", "sleep 1000", "")
	p := n.pod("own")
	ended := n.run(p, "own", "ending", "exit 3", "")
	n.ended(ended)
	n.run(p, "own", "main", "sleep 1000", "")
	const mapping = `[{"container_id": 0, "host_id": 200000, "length": 65536}]`
	for name, options := range map[string]string{
		"mapped": `"network": 0, "userns_options": {"mode": 0, "uids": ` + mapping + `, "gids": ` + mapping + `}`, "host": `"network": 2`,
	} {
		file, err := n.File("pod-"+name+".json", strings.Replace(n.PodJSON(name, false), `"network": 0`, options, 1))
		n.must(err)
		n.run(n.crictl("runp", "--runtime", "newest", file), name, "main", "sleep 1000", "")
	}
	n.healthy("with pods of all kinds", 4, 5)
	n.must(n.Kill())
	n.healthy("after kill -9 of cri-shim", 4, 5)
	n.must(n.KillMonitor())
	n.healthy("after kill -9 of cri-monitor", 4, 5)
	n.must(n.Start())
	n.healthy("after the next start", 4, 5)
	n.crictl("stopp", p)
	n.healthy("with one pod stopped", 4, 5)
	n.crictl("rmp", "-f", "-a")
	n.healthy("after all were removed", 0, 0)
	n.must(n.Terminate())
	n.healthy("after the end", 0, 0)
}

// TestDoctorFinds: each thing that is left behind is named, and nothing else.
func TestDoctorFinds(t *testing.T) {
	n := newNode(t)
	p := n.pod("beside")
	n.run(p, "beside", "main", "sleep 1000", "")
	id := strings.Repeat("0123456789abcdef", 4)
	for _, c := range []struct {
		name string
		make func(*testing.T, *tester)
		want []string
	}{
		{"namespace", func(_ *testing.T, n *tester) { n.pinned(id) }, []string{"left: namespace " + n.State + "/ns/" + id + "/net"}},
		{"mount", func(t *testing.T, n *tester) {
			dir := n.directory(n.State + "/bundles/" + id)
			n.command("mount", "-t", "tmpfs", "none", dir)
			t.Cleanup(func() { n.command("umount", dir) })
		}, []string{"left: bundle " + n.State + "/bundles/" + id, "left: mount " + n.State + "/bundles/" + id}},
		{"cgroup with a process", func(t *testing.T, n *tester) {
			hierarchy := "/sys/fs/cgroup"
			if _, err := os.Stat(hierarchy + "/cgroup.controllers"); err != nil {
				hierarchy += "/pids"
			}
			dir := n.directory(hierarchy + n.ContainerCgroup(id))
			sleep := exec.Command("sleep", "1000")
			n.must(sleep.Start())
			n.must(os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(sleep.Process.Pid)), 0))
			t.Cleanup(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })
		}, []string{"left: cgroup " + n.ContainerCgroup(id)}},
		{"lease and link", func(t *testing.T, n *tester) {
			netns := n.pinned(id)
			env := []string{"CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=" + programs.Bin}
			n.bridgeIPAM("ADD", env)
			t.Cleanup(func() { n.bridgeIPAM("DEL", env) })
		}, []string{"left: lease ", "left: link veth", "left: namespace " + n.State + "/ns/" + id + "/net"}},
		{"container of the OCI runtime", func(t *testing.T, n *tester) { n.orphan(t, id) },
			[]string{"left: OCI runtime state " + n.State + "/runc/" + id, "left: cgroup " + n.ContainerCgroup(id)}},
		{"exit record", func(_ *testing.T, n *tester) { n.file(n.State + "/monitor/exits/" + id) },
			[]string{"left: exit record " + n.State + "/monitor/exits/" + id}},
		{"writable layer", func(_ *testing.T, n *tester) { n.directory(n.Root + "/pods/" + p + "/containers/" + id) },
			[]string{"left: writable layer " + n.Root + "/pods/" + p + "/containers/" + id}},
		{"attachment", func(_ *testing.T, n *tester) { n.file(n.Root + "/cni/attached/" + id + ".conflist") },
			[]string{"left: CNI attachment " + n.Root + "/cni/attached/" + id + ".conflist"}},
		{"result", func(_ *testing.T, n *tester) { n.file(n.Root + "/cni/results/" + n.Bridge + "-" + id + "-eth0") },
			[]string{"left: CNI result " + n.Root + "/cni/results/" + n.Bridge + "-" + id + "-eth0"}},
		{"shared files", func(_ *testing.T, n *tester) { n.directory(n.State + "/shared/" + id) },
			[]string{"left: files " + n.State + "/shared/" + id}},
		{"torn record", func(_ *testing.T, n *tester) {
			n.directory(n.Root + "/pods/" + id)
			n.file(n.Root + "/pods/" + id + "/sandbox.json")
		}, []string{"host: record", "left: record directory " + n.Root + "/pods/" + id}},
		{"missing namespace", func(t *testing.T, n *tester) {
			uts := n.State + "/ns/" + p + "/uts"
			aside := n.State + "/uts"
			n.must(os.WriteFile(aside, nil, 0o600))
			n.command("mount", "--bind", uts, aside)
			n.command("umount", uts)
			t.Cleanup(func() {
				n.command("mount", "--bind", aside, uts)
				n.command("umount", aside)
				n.must(os.Remove(aside))
			})
		}, []string{"left: mount " + n.State + "/uts", "missing: namespace " + n.State + "/ns/" + p + "/uts"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &tester{n.Node, t}
			c.make(t, n)
			r, exit := n.doctor("--patience", "500ms")
			if found := r.found(); exit != 1 || !slices.EqualFunc(found, c.want, strings.HasPrefix) {
				t.Errorf("exit %d:\n%q, want\n%q", exit, found, c.want)
			}
			if c.name == "cgroup with a process" && !strings.Contains(r.Leftovers[0].Text, "processes ") {
				t.Errorf("its process is not named: %+v", r.Leftovers)
			}
		})
	}
	n.healthy("after all of it was cleaned up", 1, 1)
}

// TestDoctorFindsAWholePod: a pod whose records are gone is left behind with everything that it has, without cri-shim too.
func TestDoctorFindsAWholePod(t *testing.T) {
	n := newNode(t)
	p := n.pod("whole")
	c := n.run(p, "whole", "main", "sleep 1000", "")
	n.must(n.Kill())
	aside := n.Base + "/aside"
	n.must(os.Rename(n.Root+"/pods/"+p, aside))
	r, exit := n.doctor("--patience", "500ms")
	var kinds []string
	for _, o := range r.Leftovers {
		if o.Owner != p && o.Owner != c {
			t.Errorf("whose is it? %+v", o)
		}
		if !slices.Contains(kinds, o.Kind) {
			kinds = append(kinds, o.Kind)
		}
	}
	slices.Sort(kinds)
	want := []string{
		"CNI attachment", "CNI result", "OCI runtime state", "bundle", "cgroup", "files", "lease", "link", "monitor record", "mount", "namespace",
	}
	if exit != 1 || !slices.Equal(kinds, want) {
		t.Errorf("exit %d: %q, want %q", exit, kinds, want)
	}
	n.must(os.Rename(aside, n.Root+"/pods/"+p))
	n.must(n.Start())
	n.healthy("with the records back", 1, 1)
}

// TestDoctorInAStorm: what is at work is no finding.
func TestDoctorInAStorm(t *testing.T) {
	n := newNode(t)
	const workers, rounds = 3, 8
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				name := fmt.Sprintf("storm-%d-%d", w, i)
				id, err := n.RunPod(name)
				if err == nil && i%2 == 0 {
					_, err = n.RunContainer(id, name, "main", image, "sleep 1000", "")
				}
				if err == nil {
					_, err = n.Crictl("rmp", "-f", id)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { wg.Wait(); close(stop) }()
	looked := 0
	for ended := false; !ended; {
		select {
		case <-stop:
			ended = true
		default:
		}
		r, exit := n.doctor("--patience", "20s")
		if found := r.found(); exit != 0 {
			t.Errorf("exit %d: %q", exit, found)
		}
		looked += r.Looked.Sandboxes
	}
	if looked == 0 {
		t.Error("no look met a pod")
	}
	n.healthy("after the storm", 0, 0)
}

// TestDoctorAfterKills: everything is killed in the middle of RunPodSandbox; after a restart nothing is left.
func TestDoctorAfterKills(t *testing.T) {
	for _, point := range []struct{ program, match, at string }{
		{"bridge-ipam", "ADD", "before"}, {"bridge-ipam", "ADD", "after"}, {"runc", " run ", "before"}, {"runc", " run ", "after"},
	} {
		t.Run(point.at+" "+point.program, func(t *testing.T) {
			n := prepareNode(t)
			n.holdAt(point.program, point.match, point.at)
			n.must(n.Start())
			file, err := n.File("pod-x.json", n.PodJSON("x", true))
			n.must(err)
			n.interruptRun(file, func() { n.waitReached(); n.must(n.KillMonitor()) })
			n.must(os.Remove(filepath.Join(n.Base, "at-"+point.at)))
			n.must(n.Start())
			n.eventually(func() bool { return n.recordsLeft() == 0 })
			n.healthy("after the restart", 0, 0)
		})
	}
}

func (n *tester) recordsLeft() int {
	all, err := os.ReadDir(n.Root + "/pods")
	n.must(err)
	return len(all)
}

// directory makes a directory that ends with the test.
func (n *tester) directory(path string) string {
	n.t.Helper()
	n.must(os.MkdirAll(filepath.Dir(path), 0o711))
	n.must(os.Mkdir(path, 0o711))
	n.t.Cleanup(func() {
		// A cgroup is busy until its processes were reaped.
		for range 200 {
			if err := syscall.Rmdir(path); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		n.t.Errorf("%s cannot be removed", path)
	})
	return path
}

func (n *tester) file(path string) {
	n.t.Helper()
	n.must(os.WriteFile(path, []byte("by hand"), 0o600))
	n.t.Cleanup(func() { n.must(os.Remove(path)) })
}

func (n *tester) command(name string, args ...string) {
	n.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		n.t.Errorf("%s %q: %v: %s", name, args, err, out)
	}
}

// pinned pins a network namespace where those of sandboxes are.
func (n *tester) pinned(id string) string {
	n.t.Helper()
	path := n.directory(n.State+"/ns/"+id) + "/net"
	n.must(os.WriteFile(path, nil, 0o600))
	n.command("unshare", "--net="+path, "true")
	n.t.Cleanup(func() {
		n.command("umount", path)
		n.must(os.Remove(path))
	})
	return path
}

// bridgeIPAM calls the plugin with the node's network, as a runtime does.
func (n *tester) bridgeIPAM(command string, env []string) {
	n.t.Helper()
	conf, err := os.ReadFile(n.NetDir + "/10.conflist")
	n.must(err)
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	n.must(json.Unmarshal(conf, &list))
	list.Plugins[0]["cniVersion"], list.Plugins[0]["name"] = list.CNIVersion, list.Name
	stdin, err := json.Marshal(list.Plugins[0])
	n.must(err)
	cmd := exec.Command(programs.Bin + "/bridge-ipam")
	cmd.Env = append(env, "CNI_COMMAND="+command)
	cmd.Stdin = strings.NewReader(string(stdin))
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Errorf("%s: %v: %s", command, err, out)
	}
}

// orphan runs a container by runc alone, in the state directory that cri-monitor gives to it.
func (n *tester) orphan(t *testing.T, id string) {
	t.Helper()
	dir := t.TempDir()
	busybox, err := exec.LookPath("busybox")
	n.must(err)
	n.must(os.MkdirAll(dir+"/rootfs/bin", 0o755))
	n.command("cp", "-L", busybox, dir+"/rootfs/bin/busybox")
	n.command("runc", "spec", "--bundle", dir)
	data, err := os.ReadFile(dir + "/config.json")
	n.must(err)
	var spec map[string]any
	n.must(json.Unmarshal(data, &spec))
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/bin/busybox", "sleep", "1000"}
	delete(process, "rlimits")
	spec["linux"].(map[string]any)["cgroupsPath"] = n.ContainerCgroup(id)
	data, err = json.Marshal(spec)
	n.must(err)
	n.must(os.WriteFile(dir+"/config.json", data, 0o600))
	run := exec.Command("runc", "--root", n.State+"/runc", "run", "--detach", "--bundle", dir, id)
	if err := run.Run(); err != nil { // without pipes, which the container would keep open
		t.Fatal(err)
	}
	t.Cleanup(func() { n.command("runc", "--root", n.State+"/runc", "delete", "--force", id) })
}
