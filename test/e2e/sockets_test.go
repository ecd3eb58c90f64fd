package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSocketsHavePaths: a pod with the host's network shares the names of abstract sockets with the host; none of them
// is ours (CVE-2020-15257). Those with paths are root's.
func TestSocketsHavePaths(t *testing.T) {
	n := newNode(t)
	p := n.hostPod("host")
	id := n.run(p, "host", "main", "sleep 1000", "")
	n.run(p, "host", "tty", "sleep 1000", `"tty": true`)
	listed := n.exec(id, "cat", "/proc/net/unix")
	if !strings.Contains(listed, n.Socket) {
		t.Fatalf("the container does not see the host's sockets: %s", listed)
	}
	monitor, err := n.MonitorPID()
	n.must(err)
	ours := 0
	for _, pid := range []int{n.ShimPID(), monitor} {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		n.must(err)
		for _, fd := range fds {
			link, _ := os.Readlink(fd) // closed meanwhile
			inode := strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")
			for line := range strings.Lines(listed) {
				f := strings.Fields(line)
				if inode == link || len(f) < 7 || f[6] != inode {
					continue
				}
				ours++
				if len(f) > 7 && f[7][0] == '@' {
					t.Errorf("process %d has the abstract socket %s", pid, f[7])
				}
			}
		}
	}
	if ours == 0 {
		t.Error("none of the sockets is ours")
	}
	for _, path := range regexp.MustCompile(regexp.QuoteMeta(n.Base)+`\S*`).FindAllString(listed, -1) {
		fi, err := os.Stat(path)
		n.must(err)
		dir, err := os.Stat(filepath.Dir(path))
		n.must(err)
		if fi.Mode().Perm()&0o002 != 0 && dir.Mode().Perm()&0o001 != 0 {
			t.Errorf("%s is for everybody: %s, in a directory %s", path, fi.Mode(), dir.Mode())
		}
	}
}
