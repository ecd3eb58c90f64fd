// Package store keeps the records of sandboxes and containers, one file each, under the layout's Root.
// It never decides anything: what a record means is the business of package pod.
//
// Crash: a record is complete before it is visible (temporary file, rename), so a killed process loses
// nothing. Files are not synced, because a power cut ends every container anyway; each carries a checksum,
// and one that is torn, foreign or of a newer format is set aside in the quarantine, named in the result
// of Load, and never stops a start.
package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/durable"
)

// header begins every record file; format 1 is followed by the SHA-256 of the JSON after the newline.
const header = "podwright-record 1 "

// Store implements pod.Store on a directory.
type Store struct {
	layout paths.Layout
}

// New makes the directories and returns the store.
func New(layout paths.Layout) (*Store, error) {
	for _, dir := range []string{layout.Pods(), layout.Quarantine()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make the record directory: %w", err)
		}
	}
	return &Store{layout}, nil
}

// PutSandbox writes the record of a sandbox.
func (s *Store) PutSandbox(r pod.Sandbox) error {
	return put(s.layout.SandboxRecord(string(r.ID)), r)
}

// PutContainer writes the record of a container.
func (s *Store) PutContainer(r pod.Container) error {
	return put(s.layout.ContainerRecord(string(r.SandboxID), string(r.ID)), r)
}

// DeleteSandbox forgets a sandbox. The record goes first: what a crash leaves of the directory is
// empty, and the next Load sweeps it.
func (s *Store) DeleteSandbox(id pod.ID) error {
	if err := remove(s.layout.SandboxRecord(string(id))); err != nil {
		return err
	}
	return sweep(s.layout.Pod(string(id)))
}

// DeleteContainer forgets a container. Its writable layer must be gone: what else is in the directory
// keeps it from being removed, and is an error.
func (s *Store) DeleteContainer(sandbox, id pod.ID) error {
	if err := remove(s.layout.ContainerRecord(string(sandbox), string(id))); err != nil {
		return err
	}
	return sweep(s.layout.Container(string(sandbox), string(id)))
}

// Load reads all records; see pod.Store.
func (s *Store) Load() (sandboxes []pod.Sandbox, containers []pod.Container, bad []error, err error) {
	dirs, err := os.ReadDir(s.layout.Pods())
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read records: %w", err)
	}
	for _, dir := range dirs {
		id := pod.ID(dir.Name())
		r, err := load(s, s.layout.SandboxRecord(dir.Name()), func(r pod.Sandbox) bool { return r.ID == id })
		switch {
		case err == nil:
			sandboxes = append(sandboxes, r)
		case !errors.Is(err, fs.ErrNotExist):
			bad = append(bad, err)
		}
		cs, faults := s.loadContainers(id)
		containers, bad = append(containers, cs...), append(bad, faults...)
		if err != nil && len(cs) == 0 {
			_ = sweep(s.layout.Pod(dir.Name())) // empty after a crash in DeleteSandbox; else it stays
		}
	}
	return sandboxes, containers, bad, nil
}

func (s *Store) loadContainers(sandbox pod.ID) (containers []pod.Container, bad []error) {
	dirs, err := os.ReadDir(filepath.Join(s.layout.Pod(string(sandbox)), "containers"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, []error{fmt.Errorf("read records of sandbox %s: %w", sandbox, err)}
	}
	for _, dir := range dirs {
		id := pod.ID(dir.Name())
		r, err := load(s, s.layout.ContainerRecord(string(sandbox), dir.Name()), func(r pod.Container) bool {
			return r.ID == id && r.SandboxID == sandbox
		})
		switch {
		case err == nil:
			containers = append(containers, r)
		case errors.Is(err, fs.ErrNotExist):
			_ = sweep(s.layout.Container(string(sandbox), dir.Name()))
		default:
			bad = append(bad, err)
		}
	}
	return containers, bad
}

// put writes a record. When it cannot, a directory that it has made for it goes again.
func put(path string, record any) (err error) {
	defer func() {
		if err != nil {
			_ = sweep(filepath.Dir(path)) // refused where there is an older record, or anything else
		}
	}()
	body, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode record %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return fmt.Errorf("make the directory of a record: %w", err)
	}
	sum := sha256.Sum256(body)
	data := append([]byte(header+hex.EncodeToString(sum[:])+"\n"), body...)
	if err := durable.WriteFile(path, data, 0o600, durable.NoSync); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// load reads one record and sets it aside when it cannot be trusted.
func load[T any](s *Store, path string, belongs func(T) bool) (T, error) {
	var r T
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	body, err := open(data)
	if err == nil {
		err = json.Unmarshal(body, &r)
	}
	if err == nil && !belongs(r) {
		err = errors.New("the ids in it are not those of its place")
	}
	if err == nil {
		return r, nil
	}
	name := fmt.Sprintf("%d-%s", time.Now().UnixNano(), strings.ReplaceAll(strings.TrimPrefix(path, s.layout.Pods()+"/"), "/", "-"))
	aside := filepath.Join(s.layout.Quarantine(), name)
	return r, errors.Join(fmt.Errorf("record %s is moved to %s: %w", path, aside, err), os.Rename(path, aside))
}

// open checks the first line and returns what follows it.
func open(data []byte) ([]byte, error) {
	first, body, ok := strings.Cut(string(data), "\n")
	sum, isRecord := strings.CutPrefix(first, header)
	if !ok || !isRecord {
		return nil, fmt.Errorf("it does not begin with %q", header)
	}
	if got := sha256.Sum256([]byte(body)); hex.EncodeToString(got[:]) != sum {
		return nil, errors.New("its checksum is wrong")
	}
	return []byte(body), nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

// sweep removes a directory, its empty containers directory, and what a killed write left in them.
// It never removes anything else.
func sweep(dir string) error {
	_ = os.Remove(filepath.Join(dir, "containers"))
	for _, pattern := range []string{dir, filepath.Join(dir, "containers")} {
		if err := durable.RemoveLeftovers(pattern); err != nil {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record directory: %w", err)
	}
	return nil
}
