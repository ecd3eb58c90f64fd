package crishim

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestUnchangedMappings(t *testing.T) {
	const smaps = `00400000-00500000 r-xp 00000000 fe:00 7 /bin/x
Size:               1024 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00500000-00600000 r--p 00100000 fe:00 7 /bin/x
Anonymous:             4 kB
00600000-00700000 rw-p 00200000 fe:00 7 /bin/x
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 8 /bin/y
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7ffc0000-7ffd0000 r--p 00300000 fe:00 7 /bin/x
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x500000}, {0x7ffc0000, 0x7ffd0000}}
	if got := unchanged(strings.NewReader(smaps), "/bin/x"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(unchanged(f, self)) == 0 {
		t.Error("no mapping of our own program")
	}
	shrink() // and live on
}
