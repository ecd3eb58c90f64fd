package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := New(paths.Layout{Root: t.TempDir(), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func records() (pod.Sandbox, pod.Container) {
	user := int64(7)
	s := pod.Sandbox{
		ID: "s1", State: pod.Ready, BootID: "b", CreatedAt: time.Unix(1, 2).UTC(), Attached: true,
		Config: pod.SandboxConfig{Name: "n", Labels: map[string]string{"a": "b"}, DNS: &pod.DNS{}},
	}
	c := pod.Container{
		ID: "c1", SandboxID: "s1", State: pod.Exited, BootID: "b", CreatedAt: time.Unix(1, 3).UTC(), StartedAt: time.Unix(2, 0).UTC(),
		Exit:   pod.Exit{Code: 137, OOMKilled: true, FinishedAt: time.Unix(3, 0).UTC()},
		Config: pod.ContainerConfig{Name: "x", Env: []pod.EnvVar{{Key: "K", Value: []byte{0xff, 1}}}, Security: pod.Security{RunAsUser: &user}},
	}
	return s, c
}

func load3(t *testing.T, s *Store) ([]pod.Sandbox, []pod.Container, []error) {
	t.Helper()
	ss, cs, bad, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return ss, cs, bad
}

func TestPutLoadDelete(t *testing.T) {
	s := newStore(t)
	sb, c := records()
	for range 2 { // the second Put replaces the first
		if err := s.PutSandbox(sb); err != nil {
			t.Fatal(err)
		}
		if err := s.PutContainer(c); err != nil {
			t.Fatal(err)
		}
	}
	ss, cs, bad := load3(t, s)
	if diff := cmp.Diff([]pod.Sandbox{sb}, ss); diff != "" || len(bad) != 0 {
		t.Errorf("sandboxes: %s %v", diff, bad)
	}
	if diff := cmp.Diff([]pod.Container{c}, cs); diff != "" {
		t.Errorf("containers: %s", diff)
	}
	for range 2 { // absent is success
		if err := s.DeleteContainer("s1", "c1"); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.DeleteSandbox("s1"); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(s.layout.Pods() + "/*"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestBadRecordsAreSetAside(t *testing.T) {
	good := func(t *testing.T, s *Store) []byte {
		sb, _ := records()
		if err := s.PutSandbox(sb); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(s.layout.SandboxRecord("s1"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"truncated": func(b []byte) []byte { return b[:len(b)-9] },
		"one bit":   func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"foreign":   func([]byte) []byte { return []byte("{}\n") },
		"newer":     func(b []byte) []byte { return []byte(strings.Replace(string(b), "record 1", "record 2", 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			path := s.layout.SandboxRecord("s1")
			if err := os.WriteFile(path, spoil(good(t, s)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, c := records()
			c.SandboxID, c.ID = "s2", "c2"
			if err := s.PutContainer(c); err != nil {
				t.Fatal(err)
			}
			ss, cs, bad := load3(t, s)
			if len(ss) != 0 || len(cs) != 1 || len(bad) != 1 || !strings.Contains(bad[0].Error(), path) {
				t.Errorf("got %v, %v, %v", ss, cs, bad)
			}
			if aside, _ := filepath.Glob(s.layout.Quarantine() + "/*"); len(aside) != 1 {
				t.Errorf("set aside: %v", aside)
			}
			if _, _, bad := load3(t, s); len(bad) != 0 {
				t.Errorf("second load: %v", bad)
			}
		})
	}
}

func TestRecordInAForeignPlace(t *testing.T) {
	s := newStore(t)
	sb, _ := records()
	if err := s.PutSandbox(sb); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.layout.Pod("s1"), s.layout.Pod("s9")); err != nil {
		t.Fatal(err)
	}
	if ss, _, bad := load3(t, s); len(ss) != 0 || len(bad) != 1 {
		t.Errorf("got %v, %v", ss, bad)
	}
}

// TestDeleteNeverTakesALayer: a writable layer that is still there must not vanish with the record.
func TestDeleteNeverTakesALayer(t *testing.T) {
	s := newStore(t)
	_, c := records()
	if err := s.PutContainer(c); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(s.layout.Upper("s1", "c1"), "data")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteContainer("s1", "c1"); err == nil {
		t.Error("no error although a layer is left")
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

func TestModes(t *testing.T) {
	s := newStore(t)
	sb, _ := records()
	if err := s.PutSandbox(sb); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(s.layout.SandboxRecord("s1"))
	if err != nil || fi.Mode() != fs.FileMode(0o600) {
		t.Errorf("record: %v, %v", fi.Mode(), err)
	}
}
