package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
	"github.com/podwright/podwright/pkg/durable"
)

// record is a container as the next monitor must find it.
type record struct {
	ID        string `json:"id"`
	SandboxID string `json:"sandboxID"`
	Bundle    string `json:"bundle"`
	Handler   string `json:"handler,omitempty"`
	Runtime   string `json:"runtime,omitempty"` // what the handler meant when it was started
	LogDir    string `json:"logDir,omitempty"`  // LogPath is below it; "": of a cri-shim that did not say
	LogPath   string `json:"logPath,omitempty"`
	TTY       bool   `json:"tty,omitempty"`
	Stdin     bool   `json:"stdin,omitempty"`
	StdinOnce bool   `json:"stdinOnce,omitempty"`
	Restore   string `json:"restore,omitempty"` // directory of CRIU's images; "": it was started anew

	// PID is 0 while the OCI runtime is still at work: an intent without its fact.
	PID       int       `json:"pid,omitempty"`
	StartTick uint64    `json:"startTick,omitempty"` // tells the process from a later one with its pid
	StartedAt time.Time `json:"startedAt,omitzero"`
}

// log says where the log lies. Whoever writes to the directory of all pods' logs can replace that of a pod, and all
// below: links are followed above it only.
func (r record) log() crilog.Place {
	if r.LogPath == "" {
		return crilog.Place{}
	}
	dir := filepath.Dir(r.LogPath)
	if r.LogDir != "" {
		dir = filepath.Dir(r.LogDir)
	}
	return crilog.Place{Dir: dir, Name: strings.TrimLeft(strings.TrimPrefix(r.LogPath, dir), "/")}
}

// ending is the end of a container, as kept in its exit file.
type ending struct {
	Code       int32     `json:"code"`
	Signal     int32     `json:"signal,omitempty"`
	OOMKilled  bool      `json:"oomKilled,omitempty"`
	Lost       bool      `json:"lost,omitempty"`
	Open       bool      `json:"open,omitempty"` // what the container left may still run, and its last output not be logged
	FinishedAt time.Time `json:"finishedAt"`
}

// archive is the monitor's directory.
type archive struct{ dir string }

var goodID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

func newArchive(dir string) (archive, error) {
	a := archive{dir}
	for _, d := range []string{dir, a.sub("containers"), a.sub("exits"), a.sub("quarantine")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return a, fmt.Errorf("make the monitor's directory: %w", err)
		}
	}
	return a, nil
}

// sweep removes what a killed monitor was writing. Only who has the lock may call it.
func (a archive) sweep() error {
	return errors.Join(durable.RemoveLeftovers(a.sub("containers")), durable.RemoveLeftovers(a.sub("exits")))
}

func (a archive) sub(name string) string { return filepath.Join(a.dir, name) }
func (a archive) containerFile(id string) string {
	return filepath.Join(a.dir, "containers", id+".json")
}
func (a archive) exitFile(id string) string { return filepath.Join(a.dir, "exits", id) }

func write(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, data, 0o600, durable.NoSync)
}

// read fills v; a missing file is fs.ErrNotExist.
func read(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// forget removes both files, the exit last, so that a crash in between repeats the removal.
func (a archive) forget(id string) error {
	var faults []error
	for _, path := range []string{a.containerFile(id), a.exitFile(id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// load returns all records; one that cannot be read is set aside and named in bad.
func (a archive) load() (records []record, bad []error) {
	entries, err := os.ReadDir(a.sub("containers"))
	if err != nil {
		return nil, []error{err}
	}
	for _, e := range entries {
		path := filepath.Join(a.sub("containers"), e.Name())
		var r record
		err := read(path, &r)
		if err == nil && (!goodID.MatchString(r.ID) || a.containerFile(r.ID) != path || !filepath.IsAbs(r.Bundle)) {
			err = fmt.Errorf("read %s: its content does not fit its name", path)
		}
		if err == nil {
			records = append(records, r)
			continue
		}
		aside := filepath.Join(a.sub("quarantine"), fmt.Sprintf("%d-%s", time.Now().UnixNano(), e.Name()))
		bad = append(bad, errors.Join(err, os.Rename(path, aside)))
	}
	return records, bad
}
