package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Look reads all records beside whoever owns them, and changes nothing: what Load would set aside is named in bad
// and stays where it is. A record that vanishes meanwhile is none.
func Look(layout paths.Layout) (sandboxes []pod.Sandbox, containers []pod.Container, bad []error, err error) {
	files, err := filepath.Glob(filepath.Join(layout.Pods(), "*", "sandbox.json"))
	if err != nil {
		return nil, nil, nil, err
	}
	more, err := filepath.Glob(filepath.Join(layout.Pods(), "*", "containers", "*", "container.json"))
	if err != nil {
		return nil, nil, nil, err
	}
	for _, file := range files {
		sandboxes, bad = peek(sandboxes, bad, file, func(s pod.Sandbox) string { return layout.SandboxRecord(string(s.ID)) })
	}
	for _, file := range more {
		containers, bad = peek(containers, bad, file, func(c pod.Container) string {
			return layout.ContainerRecord(string(c.SandboxID), string(c.ID))
		})
	}
	return sandboxes, containers, bad, nil
}

// peek appends the record in file to all, or says in bad why it cannot be trusted.
func peek[T any](all []T, bad []error, file string, place func(T) string) ([]T, []error) {
	var r T
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return all, bad
	}
	var body []byte
	if err == nil {
		body, err = open(data)
	}
	if err == nil {
		err = json.Unmarshal(body, &r)
	}
	if err == nil && place(r) != file {
		err = errors.New("the ids in it are not those of its place")
	}
	if err != nil {
		return all, append(bad, fmt.Errorf("record %s: %w", file, err))
	}
	return append(all, r), bad
}
