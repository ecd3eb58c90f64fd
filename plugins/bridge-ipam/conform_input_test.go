package bridgeipam_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podwright/podwright/pkg/netutil"
	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// maxData is the most writable memory that bad input may make the plugin map, in KiB: the runtime of Go maps 64 MiB at once.
const maxData = 192 << 10

// TestBadStdin: rules 13 and 15. Whatever comes in, the answer is one error object, and nothing is left.
func TestBadStdin(t *testing.T) {
	n := newNode(t)
	pod := nettest.NewNS(t)
	good := n.conf(nil)
	in := func(key, value string) string {
		return `{"cniVersion":"1.1.0","name":"net","` + key + `":` + value + `}`
	}
	for name, c := range map[string]struct {
		stdin string
		code  uint
		want  string
	}{
		"empty":               {"", 6, "empty"},
		"space":               {" \n", 6, "empty"},
		"truncated":           {good[:len(good)/2], 6, "ends in the middle"},
		"one brace":           {"{", 6, "ends in the middle"},
		"two values":          {good + good, 6, "more than one"},
		"rest":                {good + "x", 6, "stdin"},
		"not JSON":            {"hello", 6, "byte 1"},
		"binary":              {"\x00\xff\xfe", 6, "byte 1"},
		"null":                {"null", 7, "name"},
		"list":                {"[]", 6, "array"},
		"string":              {`"x"`, 6, "string"},
		"number":              {"1e999", 6, "number"},
		"10 MiB":              {in("x", `"`+strings.Repeat("a", 10<<20)+`"`), 5, "larger than 1048576 bytes"},
		"10 MiB of space":     {strings.Repeat(" ", 10<<20) + good, 5, "larger than"},
		"10 MiB of lists":     {strings.Repeat("[", 10<<20), 6, "depth"},
		"deep lists":          {in("x", strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)), 6, "depth"},
		"deep objects":        {in("x", strings.Repeat(`{"a":`, 50_000)+"1"+strings.Repeat("}", 50_000)), 6, "depth"},
		"many ranges":         {in("ipam", `{"ranges":[[`+strings.Repeat(`{"subnet":"10.0.0.0/8"},`, 30_000)+`{"subnet":"10.0.0.0/8"}]]}`), 7, "ipam.ranges"},
		"many range sets":     {in("ipam", `{"ranges":[`+strings.Repeat(`[{"subnet":"10.0.0.0/8"}],`, 30_000)+`[{"subnet":"10.0.0.0/8"}]]}`), 7, "ipam.ranges"},
		"many faults":         {in("ipam", `{"routes":[`+strings.Repeat(`{},`, 100_000)+`{}]}`), 7, "ipam.routes[0]"},
		"wrong type":          {in("mtu", `"big"`), 6, "mtu"},
		"no name":             {`{"cniVersion":"1.1.0"}`, 7, "name"},
		"bad name":            {`{"cniVersion":"1.1.0","name":"../../etc"}`, 7, "name"},
		"type is a path":      {in("type", `"../bridge-ipam"`), 7, `type "../bridge-ipam"`},
		"ipam.type is a path": {in("ipam", `{"type":"/bin/sh"}`), 7, `ipam.type "/bin/sh"`},
		"range outside":       {in("ipam", `{"subnet":"10.1.0.0/24","rangeStart":"10.2.0.5"}`), 7, "ipam.rangeStart 10.2.0.5"},
		"range end outside":   {in("ipam", `{"subnet":"10.1.0.0/24","rangeEnd":"10.2.0.5"}`), 7, "ipam.rangeEnd 10.2.0.5"},
		"version is a number": {`{"cniVersion":7,"name":"net"}`, 6, "cniVersion"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, cmd := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
				if c.code == 7 && (cmd == "DEL" || cmd == "GC") {
					continue // they look at few keys, so that a broken configuration still lets go
				}
				if c.want == "mtu" && (cmd == "DEL" || cmd == "GC") || name == "null" && cmd != "ADD" { // null has version 0.1.0
					continue
				}
				n.refused(call{cmd: cmd, id: "c", ifName: "eth0", netns: pod, conf: c.stdin}, c.code, c.want)
			}
		})
	}
	n.clean()
	if _, err := os.Stat(n.data); err == nil {
		t.Error("a lease directory was made")
	}
}

// TestBadInputIsCheap: large and deep input costs neither the stack nor the memory of the node.
func TestBadInputIsCheap(t *testing.T) {
	n := newNode(t)
	for name, stdin := range map[string]string{
		"fine": n.conf(nil), "fine and deep": `{"cniVersion":"1.1.0","name":"net","ipam":{"dataDir":"` + n.data + `"},"prevResult":` + strings.Repeat(`{"a":`, 9000) + "1" + strings.Repeat("}", 9001),
		"size": `{"x":"` + strings.Repeat("a", 10<<20), "lists": strings.Repeat("[", 10<<20), "objects": strings.Repeat(`{"a":`, 2<<20),
		"ranges": `{"cniVersion":"1.1.0","name":"net","ipam":{"ranges":[` + strings.Repeat(`[{"subnet":"10.0.0.0/8"}],`, 35_000) + `[]]}}`,
	} {
		c := call{cmd: "STATUS", conf: stdin}
		var out bytes.Buffer
		cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf(`ulimit -d %d && exec "$0"`, maxData), binary)
		cmd.Env, cmd.Stdin, cmd.Stdout = c.env(), strings.NewReader(stdin), &out
		nettest.In(t, n.ns, cmd.Start)
		_ = cmd.Wait()
		want := 1
		if strings.HasPrefix(name, "fine") {
			want = 0
		}
		if code := cmd.ProcessState.ExitCode(); code != want || out.Len() > 64<<10 {
			t.Errorf("%s: exit %d, %d bytes of answer", name, code, out.Len())
		}
	}
}

// TestBadEnvironment: rule 14, and values that make no sense.
func TestBadEnvironment(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"cni.dev/valid-attachments": []any{}})
	pod := nettest.NewNS(t)
	file := filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	fifo := filepath.Join(t.TempDir(), "fifo")
	ok(t, syscall.Mkfifo(fifo, 0o600))
	for _, c := range []struct {
		call call
		code uint
		want []string
	}{
		{call{cmd: "ADD", path: "-"}, 4, []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"}},
		{call{cmd: "CHECK", id: "c"}, 4, []string{"CNI_NETNS", "CNI_IFNAME"}},
		{call{cmd: "DEL"}, 4, []string{"CNI_CONTAINERID", "CNI_IFNAME"}},
		{call{cmd: "GC", path: "-"}, 4, []string{"CNI_PATH"}},
		{call{cmd: "STATUS", path: "-"}, 4, []string{"CNI_PATH"}},
		{call{cmd: "add", id: "c", ifName: "eth0", netns: pod}, 4, []string{"CNI_COMMAND", `"add"`, "ADD"}},
		{call{cmd: strings.Repeat("A", 4096)}, 4, []string{"CNI_COMMAND"}},
		{call{cmd: "ADD", id: "../c", ifName: "eth0", netns: pod}, 4, []string{"CNI_CONTAINERID", `"../c"`}},
		{call{cmd: "ADD", id: strings.Repeat("c", 1025), ifName: "eth0", netns: pod}, 4, []string{"CNI_CONTAINERID", "1024"}},
		{call{cmd: "ADD", id: "c", ifName: "0123456789abcdef", netns: pod}, 4, []string{"CNI_IFNAME"}},
		{call{cmd: "ADD", id: "c", ifName: "..", netns: pod}, 4, []string{"CNI_IFNAME"}},
		{call{cmd: "ADD", id: "c", ifName: "a/b", netns: pod}, 4, []string{"CNI_IFNAME", `"a/b"`}},
		{call{cmd: "ADD", id: "c", ifName: "a b", netns: pod}, 4, []string{"CNI_IFNAME"}},
		{call{cmd: "ADD", id: "c d", ifName: "a:b", netns: pod}, 4, []string{"CNI_IFNAME", "CNI_CONTAINERID"}},
		{call{cmd: "ADD", id: "c", ifName: "lo", netns: pod}, 999, []string{"lo", "exists"}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: file}, 4, []string{"CNI_NETNS", file}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: fifo}, 4, []string{"CNI_NETNS", fifo}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: "/"}, 4, []string{"CNI_NETNS"}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: "/dev/zero"}, 4, []string{"CNI_NETNS"}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: "/proc/self/ns/mnt"}, 4, []string{"CNI_NETNS"}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: "/nonexistent"}, 4, []string{"CNI_NETNS", "/nonexistent"}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: strings.Repeat("/a", 8000)}, 4, []string{"CNI_NETNS"}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: n.ns}, 8, []string{"CNI_NETNS", "own"}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, args: "IP"}, 4, []string{"CNI_ARGS"}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, args: "A=b"}, 4, []string{"CNI_ARGS", "IgnoreUnknown"}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, args: "IP=x"}, 7, []string{"CNI_ARGS IP", `"x"`}},
		{call{cmd: "ADD", id: "c", ifName: "eth0", netns: pod, args: "MAC=ff:ff:ff:ff:ff:ff"}, 7, []string{"CNI_ARGS MAC", "unicast"}},
	} {
		c.call.conf = conf
		n.refused(c.call, c.code, c.want...)
	}
	n.clean()
}

// TestVersionNeedsNothing: rule 12.
func TestVersionNeedsNothing(t *testing.T) {
	var out, errs bytes.Buffer
	cmd := exec.Command(binary)
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"CNI_COMMAND=VERSION"}, &out, &errs
	ok(t, cmd.Run())
	var v struct {
		CNIVersion        string
		SupportedVersions []string
	}
	ok(t, json.Unmarshal(out.Bytes(), &v))
	if v.CNIVersion != "1.1.0" || strings.Join(v.SupportedVersions, " ") != "0.1.0 0.2.0 0.3.0 0.3.1 0.4.0 1.0.0 1.1.0" || errs.Len() != 0 {
		t.Errorf("%s%s", out.String(), errs.String())
	}
}

// TestNoWaitForEOF: rule 15. A caller that keeps stdin open gets its answer all the same.
func TestNoWaitForEOF(t *testing.T) {
	n := newNode(t)
	r, w, err := os.Pipe()
	ok(t, err)
	var out bytes.Buffer
	cmd := exec.Command(binary)
	cmd.Env, cmd.Stdin, cmd.Stdout = call{cmd: "ADD", id: "c", ifName: "eth0", netns: nettest.NewNS(t)}.env(), r, &out
	nettest.In(t, n.ns, cmd.Start)
	ok(t, r.Close())
	_, err = w.WriteString(n.conf(nil))
	ok(t, err)
	watchdog := time.AfterFunc(20*time.Second, func() { _ = w.Close() })
	err = cmd.Wait()
	if !watchdog.Stop() || err != nil {
		t.Errorf("ADD waited for the end of its input: %v %s", err, out.String())
	}
	_ = w.Close()
}

// TestUnknownKeys: rule 13. They are of no account.
func TestUnknownKeys(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{
		"x": map[string]any{"y": []any{1, nil}}, "cni.dev/z": 7, "runtimeConfig": map[string]any{"unknown": true}, "args": map[string]any{"a": 1},
	})
	n.add("c", nettest.NewNS(t), conf)
	n.del("c", conf)
	n.clean("br0")
}

// TestWithoutRuntimeConfig: rule 17. A runtime that passes no capability is fine; null and {} too.
func TestWithoutRuntimeConfig(t *testing.T) {
	n := newNode(t)
	for _, value := range []any{nil, json.RawMessage("null"), map[string]any{}} {
		conf := n.conf(map[string]any{"runtimeConfig": value})
		n.add("c", nettest.NewNS(t), conf)
		n.del("c", conf)
	}
	n.clean("br0")
}

// TestExhausted: the error says what is exhausted and that it may pass; nothing of the attempt is left.
func TestExhausted(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"ipam": ranges("10.77.0.0/29", "fd77::/64")})
	for i := range 5 {
		n.add(string(rune('a'+i)), nettest.NewNS(t), conf)
	}
	_, chains, before := n.left()
	pod := nettest.NewNS(t)
	n.refused(call{cmd: "ADD", id: "z", ifName: "eth0", netns: pod, conf: conf}, 11, "10.77.0.0/29", "no free address")
	links, chains2, after := n.left()
	if len(links) != 6 || len(after) != len(before) || len(chains) != len(chains2) {
		t.Errorf("left: %v %v", links, after)
	}
	n.del("c", conf)
	if r := n.add("z", pod, conf); r.addr(0) != netip.MustParseAddr("10.77.0.4") {
		t.Errorf("%s", r.raw)
	}
}

// TestRequestedAddressOfTheDead: an address that is asked for is taken back from the dead, and from nobody else.
func TestRequestedAddressOfTheDead(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.77.0.50", "fd77::50"}}})
	first, second := nettest.NewNS(t), nettest.NewNS(t)
	n.add("first", first, conf)
	again := call{cmd: "ADD", id: "second", ifName: "eth0", netns: second, conf: conf}
	n.refused(again, 999, "10.77.0.50", "in use")
	at(t, first, func(h *netutil.Handle) { ok(t, h.DeleteLink("eth0")) })
	n.refused(again, 999, "10.77.0.50", "in use") // its namespace lives
	nettest.DeleteNS(t, first)
	if r := n.add("second", second, conf); r.addr(0) != netip.MustParseAddr("10.77.0.50") || r.addr(1) != netip.MustParseAddr("fd77::50") {
		t.Errorf("%s", r.raw)
	}
}
