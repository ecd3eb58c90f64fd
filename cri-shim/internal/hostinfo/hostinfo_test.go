package hostinfo

import (
	"strings"
	"testing"
)

func TestParseRelease(t *testing.T) {
	for in, want := range map[string][2]int{"6.18.44-x": {6, 18}, "5.10": {5, 10}, "6.1.0-28-amd64": {6, 1}, "junk": {0, 0}, "7.0-rc1": {7, 0}} {
		if major, minor := parseRelease(in); [2]int{major, minor} != want {
			t.Errorf("%s: got %d.%d", in, major, minor)
		}
	}
}

func TestKernelAtLeast(t *testing.T) {
	f := Facts{KernelMajor: 5, KernelMinor: 10}
	for _, c := range []struct {
		major, minor int
		want         bool
	}{{5, 10, true}, {5, 9, true}, {4, 99, true}, {5, 11, false}, {6, 0, false}} {
		if f.KernelAtLeast(c.major, c.minor) != c.want {
			t.Errorf("%d.%d: want %v", c.major, c.minor, c.want)
		}
	}
}

func TestV1Controllers(t *testing.T) {
	got := v1Controllers("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup2 /x cgroup2 rw,memory 0 0\n")
	if !got["cpu"] || !got["cpuacct"] || got["memory"] {
		t.Errorf("got %v", got)
	}
}

func TestCollect(t *testing.T) {
	f, err := Collect()
	if err != nil {
		t.Fatal(err)
	}
	if len(f.BootID) != 36 || f.KernelMajor < 5 || f.NofileHard == 0 || len(f.Controllers) == 0 {
		t.Errorf("got %+v", f)
	}
	for _, c := range f.Caps {
		if !strings.HasPrefix(c, "CAP_") || strings.ToUpper(c) != c {
			t.Errorf("capability %q", c)
		}
	}
}
