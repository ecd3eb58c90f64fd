package lease

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// crasherEnv makes the test binary a process that commits and releases until it is killed.
const crasherEnv = "LEASE_TEST_CRASHER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crasherEnv); dir != "" {
		crasher(dir)
	}
	os.Exit(m.Run())
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

func of(id string, addrs ...netip.Addr) Lease {
	return Lease{
		Attachment: Attachment{ContainerID: id, IfName: "eth0"}, Network: "net", Addresses: addrs,
		NetNS: "/run/netns/" + id, NetNSInode: 7, HostLink: "veth0", Time: time.Unix(1, 0).UTC(),
	}
}

func locked(t testing.TB, s *Store, f func(l *Locked)) {
	t.Helper()
	l, err := s.Lock()
	ok(t, err)
	f(l)
	ok(t, l.Unlock())
}

func TestCommitFindRelease(t *testing.T) {
	s := New(t.TempDir(), "net", "boot1")
	want := of("a", addr(1), netip.MustParseAddr("fd00::1"))
	if _, err := s.Find(want.Attachment); !errdefs.IsNotFound(err) || s.Exists() {
		t.Errorf("before: %v", err)
	}
	locked(t, s, func(l *Locked) {
		ok(t, l.Commit(want))
		if err := l.Commit(want); !errdefs.IsAlreadyExists(err) {
			t.Errorf("same attachment: %v", err)
		}
		if err := l.Commit(of("b", addr(1))); !errdefs.IsAlreadyExists(err) {
			t.Errorf("same address: %v", err)
		}
	})
	got, err := s.Find(want.Attachment)
	ok(t, err)
	if got.NetNSInode != 7 || got.BootID != "boot1" || !slices.Equal(got.Addresses, want.Addresses) || !got.Time.Equal(want.Time) {
		t.Errorf("%+v", got)
	}
	for _, a := range want.Addresses {
		if !s.Taken(a) {
			t.Errorf("%s is free", a)
		}
	}
	other := Attachment{ContainerID: "a", IfName: "eth1"}
	locked(t, s, func(l *Locked) {
		ok(t, l.Release(other)) // another interface of the same container
		if _, err := s.Find(want.Attachment); err != nil {
			t.Error(err)
		}
		if empty, err := l.Empty(); empty || err != nil {
			t.Errorf("empty %v, %v", empty, err)
		}
		for range 2 {
			ok(t, l.Release(want.Attachment))
		}
		if empty, err := l.Empty(); !empty || err != nil {
			t.Errorf("empty %v, %v", empty, err)
		}
	})
	for _, a := range want.Addresses {
		if s.Taken(a) {
			t.Errorf("%s still taken", a)
		}
	}
	for _, kind := range []string{"at", "ip", "rec"} {
		if names, _ := readNames(s.path(kind)); len(names) != 0 {
			t.Errorf("%s: %v", kind, names)
		}
	}
}

func TestKeysOfNeighboursDiffer(t *testing.T) {
	seen := map[string]Attachment{}
	for _, a := range []Attachment{{"a", "eth0"}, {"a", "eth1"}, {"ae", "th0"}, {"", "aeth0"}, {"aeth0", ""}} {
		if b, ok := seen[a.Key()]; ok {
			t.Errorf("%v and %v", a, b)
		}
		seen[a.Key()] = a
	}
}

func anywhere(netip.Addr) bool { return true }

// TestFirstOwner: an address had no owner before when it is above all that were given of its range, and when it can be known.
func TestFirstOwner(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	s := New(dir, "net", "boot1").Beside(other)
	elsewhere := func(netip.Addr) bool { return false }
	for i, step := range []struct {
		addr      int
		sameRange func(netip.Addr) bool
		first     bool
	}{
		{5, anywhere, true}, {5, anywhere, false}, {7, anywhere, true}, {6, anywhere, false}, {8, anywhere, true},
		{9, elsewhere, false}, {10, anywhere, false}, // after another range nothing is known any more
	} {
		locked(t, s, func(l *Locked) {
			first, err := l.SetLast(0, addr(step.addr), step.sameRange)
			if err != nil || first != step.first || l.Last(0) != addr(step.addr) {
				t.Errorf("step %d: first %t, %v, last %v", i, first, err, l.Last(0))
			}
		})
	}
	ok(t, os.MkdirAll(filepath.Join(other, "net"), 0o755))
	ok(t, os.WriteFile(filepath.Join(other, "net", marker), nil, 0o600))
	locked(t, s, func(l *Locked) {
		if first, err := l.SetLast(1, addr(1), anywhere); err != nil || first {
			t.Errorf("beside host-local: first %t, %v", first, err)
		}
	})
	// As older versions wrote it.
	ok(t, os.WriteFile(s.path("last.2"), []byte(addr(1).String()+"\n"), 0o600))
	locked(t, s, func(l *Locked) {
		if first, err := l.SetLast(2, addr(2), anywhere); err != nil || first || l.Last(2) != addr(2) {
			t.Errorf("after an older version: first %t, %v", first, err)
		}
	})
}

func TestOlderBootNeverCounts(t *testing.T) {
	dir := t.TempDir()
	old := New(dir, "net", "boot1")
	locked(t, old, func(l *Locked) {
		ok(t, l.Commit(of("a", addr(1))))
		_, err := l.SetLast(0, addr(1), anywhere)
		ok(t, err)
	})
	damaged := of("b", addr(2))
	locked(t, old, func(l *Locked) { ok(t, l.Commit(damaged)) })
	damage(t, old, damaged.Attachment)

	now := New(dir, "net", "boot2")
	if _, err := now.Find(of("a").Attachment); !errdefs.IsNotFound(err) {
		t.Errorf("before the lock: %v", err)
	}
	locked(t, now, func(l *Locked) {
		for _, a := range []netip.Addr{addr(1), addr(2)} {
			if l.Taken(a) {
				t.Errorf("%s still taken", a)
			}
		}
		if l.Last(0) != addr(1) || l.Last(1).IsValid() {
			t.Errorf("last %v, %v", l.Last(0), l.Last(1))
		}
		ok(t, l.Commit(of("c", addr(1))))
	})
	// Somebody removes the boot file: leases of this boot must stay.
	ok(t, os.Remove(now.path("boot")))
	locked(t, now, func(l *Locked) {
		if !l.Taken(addr(1)) {
			t.Error("lease lost with the boot file")
		}
	})
}

// damage truncates the record of an attachment.
func damage(t *testing.T, s *Store, a Attachment) string {
	t.Helper()
	record, found := s.target("at", a.Key())
	if !found {
		t.Fatalf("%v: no record", a)
	}
	ok(t, os.Truncate(s.path("rec", record), 20))
	return record
}

func TestDamagedRecord(t *testing.T) {
	s := New(t.TempDir(), "net", "boot1")
	v := of("a", addr(1), addr(2))
	locked(t, s, func(l *Locked) { ok(t, l.Commit(v)) })
	damage(t, s, v.Attachment)
	if _, err := s.Find(v.Attachment); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("find: %v", err)
	}
	locked(t, s, func(l *Locked) {
		if !l.Taken(addr(1)) {
			t.Error("address given up though its owner may live")
		}
		all, err := l.All()
		ok(t, err)
		if len(all) != 1 || all[0].Damaged == nil || all[0].Key != v.Key() {
			t.Errorf("%+v", all)
		}
		ok(t, l.Release(v.Attachment))
		if l.Taken(addr(1)) || l.Taken(addr(2)) {
			t.Error("still taken")
		}
	})
	if names, _ := readNames(s.path("ip")); len(names) != 0 {
		t.Errorf("links left: %v", names)
	}
}

func TestForeignFiles(t *testing.T) {
	s := New(t.TempDir(), "net", "boot1")
	locked(t, s, func(l *Locked) {
		ok(t, os.WriteFile(l.path("ip", addr(1).String()), nil, 0o600))
		ok(t, os.Symlink("/etc/passwd", l.path("ip", addr(2).String())))
		ok(t, os.Symlink("../rec/../../boot", l.path("ip", addr(3).String())))
		ok(t, os.MkdirAll(l.path("ip", addr(4).String(), "x"), 0o700))
		ok(t, os.WriteFile(l.path("rec", "README"), []byte("hello"), 0o600))
		ok(t, os.WriteFile(l.path("rec", tempPrefix+"x"), []byte("{"), 0o600))
		for i, want := range map[int]bool{1: false, 2: false, 3: false, 4: true} {
			if l.Taken(addr(i)) != want {
				t.Errorf("%s taken: %v", addr(i), !want)
			}
		}
		if empty, err := l.Empty(); !empty || err != nil {
			t.Errorf("empty %v, %v", empty, err)
		}
		ok(t, l.Commit(of("a", addr(1), addr(2), addr(3))))
		if all, err := l.All(); len(all) != 1 || all[0].Damaged != nil || err != nil {
			t.Errorf("%+v, %v", all, err)
		}
		ok(t, l.Sweep())
		if _, err := os.Stat(l.path("rec", tempPrefix+"x")); err == nil {
			t.Error("temporary file left")
		}
		if _, err := os.Stat(l.path("rec", "README")); err != nil {
			t.Error("foreign file removed")
		}
	})
}

func TestDirectoriesComeBack(t *testing.T) {
	s := New(t.TempDir(), "net", "boot1")
	locked(t, s, func(l *Locked) {
		for _, sub := range []string{"ip", "at", "rec"} {
			ok(t, os.RemoveAll(l.path(sub)))
		}
		ok(t, l.Release(of("a").Attachment))
		ok(t, l.Commit(of("a", addr(1))))
	})
	if !s.Taken(addr(1)) {
		t.Error("not taken")
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	s := New("/proc/self", "net", "boot1")
	if _, err := s.Lock(); err == nil {
		t.Error("no error")
	}
}

// TestConcurrent lets many take the first free address at once.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			s := New(dir, "net", "boot1")
			for i := range 25 {
				l, err := s.Lock()
				if err != nil {
					t.Error(err)
					return
				}
				free := 0
				for l.Taken(addr(free)) {
					free++
				}
				if err := l.Commit(of(fmt.Sprintf("c%d-%d", g, i), addr(free))); err != nil {
					t.Error(err)
				}
				if err := l.Unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	locked(t, New(dir, "net", "boot1"), func(l *Locked) {
		invariants(t, l)
		if all, _ := l.All(); len(all) != 200 || !l.Taken(addr(199)) || l.Taken(addr(200)) {
			t.Errorf("%d leases", len(all))
		}
	})
}

// TestKilledAtAnyMoment kills processes at work and checks that each lease is whole or not there.
func TestKilledAtAnyMoment(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, "net", "boot1")
	self, err := os.Executable()
	ok(t, err)
	for range 60 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), crasherEnv+"="+dir)
		begun, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		_, err = begun.Read(make([]byte, 1)) // a busy machine takes longer to start it than it is to live
		ok(t, err)
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		ok(t, cmd.Process.Kill())
		_ = cmd.Wait()
		locked(t, s, func(l *Locked) { invariants(t, l) })
	}
	locked(t, s, func(l *Locked) {
		ok(t, l.Sweep())
		all, err := l.All()
		ok(t, err)
		for _, e := range all {
			ok(t, l.Drop(e.Record))
		}
		for i := range 50 {
			if l.Taken(addr(i)) {
				t.Errorf("%s lost", addr(i))
			}
		}
	})
	for _, kind := range []string{"at", "ip", "rec"} {
		if names, _ := readNames(s.path(kind)); len(names) != 0 {
			t.Errorf("%s: left %v", kind, names)
		}
	}
	names, err := readNames(s.path())
	ok(t, err)
	if slices.Sort(names); !slices.Equal(names, []string{"at", "boot", "ip", "last.0", "lock", "port", "rec"}) {
		t.Errorf("left %v", names)
	}
}

func crasher(dir string) {
	s := New(dir, "net", "boot1")
	fmt.Println("begins")
	for i := 0; ; i++ {
		l, err := s.Lock()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		id := "c" + strconv.Itoa(rand.IntN(20))
		_ = l.Release(of(id).Attachment)
		_, _ = l.SetLast(0, addr(0), netip.Addr.IsValid)
		_ = l.Commit(of(id, addr(rand.IntN(25)), addr(25+rand.IntN(25))))
		_ = l.Unlock()
	}
}

// invariants: no record is damaged, and records, attachments and addresses agree in both directions.
func invariants(t *testing.T, l *Locked) {
	t.Helper()
	all, err := l.All()
	ok(t, err)
	owned := map[string]bool{}
	for _, e := range all {
		if e.Damaged != nil {
			t.Errorf("damaged: %v", e.Damaged)
			continue
		}
		if r, _ := l.target("at", e.Key); r != e.Record {
			t.Errorf("record %s, attachment leads to %q", e.Record, r)
		}
		for _, a := range e.Lease.Addresses {
			if owned[a.String()] {
				t.Errorf("%s held twice", a)
			}
			owned[a.String()] = true
			if r, _ := l.target("ip", a.String()); r != e.Record {
				t.Errorf("record %s, address %s leads to %q", e.Record, a, r)
			}
		}
	}
	links, err := filepath.Glob(l.path("ip", "*"))
	ok(t, err)
	for _, link := range links {
		name := filepath.Base(link)
		if _, held := l.target("ip", name); held && !owned[name] {
			t.Errorf("%s taken by nobody", name)
		}
	}
}
