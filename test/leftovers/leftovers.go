// Package leftovers counts, from the kernel, what a test or the demo has left on the host: processes,
// namespaces, links, addresses, mounts, cgroups and nftables objects that were not there before. It assumes
// nothing of what it looks for, but for processes, of which every host makes new ones: those count that a
// marker gives away.
package leftovers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kinds are what is counted, in the order of reports.
var Kinds = []string{"processes", "namespaces", "links", "addresses", "mounts", "cgroups", "nftables objects"}

// State is what the kernel has: kind → objects by a text that tells them apart.
type State map[string]map[string]bool

// Marks give our processes away: each is looked for in the command line, and in the cgroups of a process.
type Marks []string

// Take looks at the kernel.
func Take(marks Marks) (State, error) {
	s := State{}
	for _, kind := range Kinds {
		s[kind] = map[string]bool{}
	}
	err := errors.Join(s.processes(marks), s.mounts(), s.links(), s.cgroups(), s.nft())
	return s, err
}

// New returns what is in s and not in before.
func (s State) New(before State) State {
	out := State{}
	for kind, objects := range s {
		out[kind] = map[string]bool{}
		for o := range objects {
			if !before[kind][o] {
				out[kind][o] = true
			}
		}
	}
	return out
}

// Empty says whether there is nothing in s.
func (s State) Empty() bool {
	for _, objects := range s {
		if len(objects) > 0 {
			return false
		}
	}
	return true
}

// String is one line: "left behind: 0 processes, 0 namespaces, …".
func (s State) String() string {
	var parts []string
	for _, kind := range Kinds {
		parts = append(parts, fmt.Sprintf("%d %s", len(s[kind]), kind))
	}
	return "left behind: " + strings.Join(parts, ", ")
}

// Details names every object, a line each.
func (s State) Details() string {
	var b strings.Builder
	for _, kind := range Kinds {
		for _, o := range slices.Sorted(maps.Keys(s[kind])) {
			fmt.Fprintf(&b, "%s: %s\n", kind, o)
		}
	}
	return b.String()
}

// Since waits until the kernel is as before, for as long as patience lasts, and returns what is new: the
// kernel removes namespaces and what is in them in the background.
func Since(before State, marks Marks, patience time.Duration) (State, error) {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		now, err := Take(marks)
		if err != nil {
			return nil, err
		}
		if diff := now.New(before); diff.Empty() || time.Now().After(end) {
			return diff, nil
		}
	}
}

// processes adds our processes, and the namespaces that they hold.
func (s State) processes(marks Marks) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	host := map[string]bool{}
	for _, kind := range nsKinds {
		if link, err := os.Readlink("/proc/self/ns/" + kind); err == nil {
			host[link] = true
		}
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := "/proc/" + e.Name()
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		cgroups, _ := os.ReadFile(dir + "/cgroup")
		if !marks.in(cmdline) && !marks.in(cgroups) {
			continue
		}
		stat, err := os.ReadFile(dir + "/stat")
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if err != nil || len(fields) < 20 {
			continue // ended meanwhile
		}
		s["processes"][fmt.Sprintf("%d started at %s: %s", pid, fields[19], bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))] = true
		for _, kind := range nsKinds {
			if link, err := os.Readlink(dir + "/ns/" + kind); err == nil && !host[link] {
				s["namespaces"][link] = true
			}
		}
	}
	return nil
}

var nsKinds = []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"}

func (m Marks) in(data []byte) bool {
	return slices.ContainsFunc(m, func(mark string) bool { return bytes.Contains(data, []byte(mark)) })
}

// mounts adds all mounts, and the namespaces that mounts keep alive.
func (s State) mounts() error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 7 {
			continue
		}
		s["mounts"][f[4]+" "+f[3]+" "+f[2]] = true
		if strings.Contains(line, " - nsfs ") {
			s["namespaces"][f[3]] = true
		}
	}
	return nil
}

func (s State) links() error {
	out, err := exec.Command("ip", "-j", "address", "show").Output()
	if err != nil {
		return fmt.Errorf("ip address: %w", err)
	}
	var links []struct {
		Name      string `json:"ifname"`
		Addresses []struct {
			Local  string `json:"local"`
			Prefix int    `json:"prefixlen"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		return fmt.Errorf("ip address: %w", err)
	}
	for _, l := range links {
		s["links"][l.Name] = true
		for _, a := range l.Addresses {
			s["addresses"][fmt.Sprintf("%s/%d on %s", a.Local, a.Prefix, l.Name)] = true
		}
	}
	return nil
}

func (s State) cgroups() error {
	return filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			s["cgroups"][path] = true
		}
		return err
	})
}

func (s State) nft() error {
	out, err := exec.Command("nft", "-j", "list", "ruleset").Output()
	if err != nil {
		return fmt.Errorf("nft list ruleset: %w", err)
	}
	var ruleset struct {
		Objects []map[string]json.RawMessage `json:"nftables"`
	}
	if err := json.Unmarshal(out, &ruleset); err != nil {
		return fmt.Errorf("nft list ruleset: %w", err)
	}
	for _, o := range ruleset.Objects {
		for kind, content := range o {
			if kind != "metainfo" {
				s["nftables objects"][kind+" "+string(content)] = true
			}
		}
	}
	return nil
}
