package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestCheckHeals: host ports that somebody flushed come back without a new pod, because the runtime calls CNI CHECK.
func TestCheckHeals(t *testing.T) {
	n := prepareNode(t)
	n.configure("[cni]\ncheck_interval = \"1s\"\n")
	n.must(n.Start())
	n.crictl("pull", image)
	const port = 31080
	file, err := n.File("pod-web.json", strings.Replace(n.PodJSON("web", false), `"hostname"`,
		fmt.Sprintf(`"port_mappings": [{"protocol": 0, "container_port": 80, "host_port": %d}], "hostname"`, port), 1))
	n.must(err)
	p := n.crictl("runp", file)
	n.run(p, "web", "main", "mkdir /www; exec httpd -f -p 80 -h /www", "")
	address := fmt.Sprintf("%s.1:%d", n.Subnet, port)
	reachable := func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}
	n.eventually(reachable)
	flush(t)
	n.eventually(reachable)
	if c := n.networkCheck(p); c.Checks == 0 || c.Fault != "" {
		t.Errorf("got %+v", c)
	}
}

// TestCheckTells: what CHECK cannot mend is logged once and shown, and costs no pod its life.
func TestCheckTells(t *testing.T) {
	n := prepareNode(t)
	n.configure("[cni]\ncheck_interval = \"1s\"\n")
	n.must(n.Start())
	n.crictl("pull", image)
	p := n.pod("lost")
	n.run(p, "lost", "main", "sleep 1000", "")
	if out, err := exec.Command("nsenter", "--net="+n.State+"/ns/"+p+"/net", "ip", "address", "flush", "dev", "eth0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	n.eventually(func() bool { return n.networkCheck(p).Failures >= 2 })
	if c := n.networkCheck(p); !strings.Contains(c.Fault, n.Subnet) {
		t.Errorf("got %+v", c)
	}
	if got := strings.Count(n.ShimLog(), "the network of a pod is not as it was made"); got != 1 {
		t.Errorf("it stands %d times in the log", got)
	}
	if got := n.crictl("pods", "-q", "--state", "Ready"); got != p {
		t.Errorf("ready: %q, want %q", got, p)
	}
}

// flush takes our rules from nftables, as "nft flush ruleset" does, and leaves those of others alone.
func flush(t *testing.T) {
	t.Helper()
	tables, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		t.Fatal(err)
	}
	flushed := 0
	for line := range strings.Lines(string(tables)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "bridge-ipam" {
			continue
		}
		if out, err := exec.Command("nft", "delete", "table", f[1], f[2]).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		flushed++
	}
	if flushed == 0 {
		t.Fatalf("no table of ours in:\n%s", tables)
	}
}

// podInfo is what crictl inspectp shows of a pod beside its status.
type podInfo struct {
	NetworkCheck networkCheck `json:"networkCheck"`
}

type networkCheck struct {
	Fault            string
	Checks, Failures int
}

func (n *tester) podInfo(id string) podInfo {
	n.t.Helper()
	var out struct {
		Info podInfo `json:"info"`
	}
	n.must(json.Unmarshal([]byte(n.crictl("inspectp", "-o", "json", id)), &out))
	return out.Info
}

func (n *tester) networkCheck(id string) networkCheck {
	n.t.Helper()
	return n.podInfo(id).NetworkCheck
}
