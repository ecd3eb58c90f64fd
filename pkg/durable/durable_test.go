package durable

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

func TestWriteFileReplaces(t *testing.T) {
	for _, sync := range []Sync{NoSync, FullSync} {
		path := filepath.Join(t.TempDir(), "f")
		for _, want := range []string{"one", "two, longer", ""} {
			if err := WriteFile(path, []byte(want), 0o640, sync); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != want {
				t.Errorf("got %q, %v", got, err)
			}
		}
		if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o640 {
			t.Errorf("mode %v", fi.Mode())
		}
	}
}

// TestReadersNeverSeeAPart reads while two writers replace the file all the time.
func TestReadersNeverSeeAPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	content := func(n int) []byte { return []byte(strconv.Itoa(n) + string(make([]byte, 10_000*n))) }
	if err := WriteFile(path, content(1), 0o600, NoSync); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 2 {
		wg.Go(func() {
			for range 200 {
				if err := WriteFile(path, content(n+1), 0o600, NoSync); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 400 {
		got, err := os.ReadFile(path)
		if err != nil || (len(got) != 10_001 && len(got) != 20_001) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	wg.Wait()
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestFailedWriteKeepsTheOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.Mkdir(path, 0o700); err != nil { // rename onto a directory fails
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("x"), 0o600, NoSync); err == nil {
		t.Error("no error")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestRemoveLeftovers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"f", "f" + tempMark + "1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveLeftovers(dir); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 1 || left[0].Name() != "f" {
		t.Errorf("left: %v", left)
	}
	if err := RemoveLeftovers(filepath.Join(dir, "none")); err != nil {
		t.Error(err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryAcquire(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := TryAcquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Release(); err != nil {
		t.Error(err)
	}
}

func TestRemoveFile(t *testing.T) {
	for _, sync := range []Sync{NoSync, FullSync} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time it is gone already
			if err := RemoveFile(path, sync); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("still there: %v", err)
		}
	}
	if err := RemoveFile("/proc/self/status", NoSync); err == nil {
		t.Error("removed a file of /proc")
	}
}
