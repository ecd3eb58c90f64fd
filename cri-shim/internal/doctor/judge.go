package doctor

import (
	"maps"
	"path/filepath"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Kind is what an object is.
type Kind string

// The kinds of objects.
const (
	kindNamespace  Kind = "namespace"
	kindFiles      Kind = "files"
	kindBundle     Kind = "bundle"
	kindMount      Kind = "mount"
	kindCgroup     Kind = "cgroup"
	kindRuntime    Kind = "OCI runtime state"
	kindMonitor    Kind = "monitor record"
	kindExit       Kind = "exit record"
	kindAttachment Kind = "CNI attachment"
	kindResult     Kind = "CNI result"
	kindSignature  Kind = "CNI network signature"
	kindLease      Kind = "lease"
	kindLink       Kind = "link"
	kindDirectory  Kind = "record directory"
	kindLayer      Kind = "writable layer"
	kindRecord     Kind = "record"
)

// Object is one thing on the host that carries our names.
type Object struct {
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`            // a path, an address, a link
	Owner  string `json:"owner,omitempty"` // id of the sandbox or container that its name tells of
	Text   string `json:"text,omitempty"`
	Advice string `json:"advice,omitempty"`
}

func (o Object) key() string { return string(o.Kind) + "\x00" + o.Name }

// look is what was seen at one time: first the records, then the objects.
type look struct {
	layout     paths.Layout
	boot       string
	sandboxes  map[string]pod.Sandbox
	containers map[string]pod.Container
	bad        []error
	objects    map[string]Object // by key
}

// explains says whether an id has a record.
func (l look) explains(id string) bool {
	_, sandbox := l.sandboxes[id]
	_, container := l.containers[id]
	return sandbox || container
}

func (l look) has(k Kind, name string) bool {
	_, ok := l.objects[Object{Kind: k, Name: name}.key()]
	return ok
}

// leftovers are the objects that are there in every look, and that no record explains in any.
func leftovers(looks []look) []Object {
	stay := maps.Clone(looks[len(looks)-1].objects)
	maps.DeleteFunc(stay, func(key string, o Object) bool {
		for _, l := range looks {
			if _, there := l.objects[key]; !there || l.explains(o.Owner) {
				return true
			}
		}
		return false
	})
	return sorted(stay)
}

// missing are the objects that are in no look, although each look has a record that tells of them.
func missing(looks []look) []Object {
	stay := looks[0].absent()
	for _, l := range looks[1:] {
		now := l.absent()
		maps.DeleteFunc(stay, func(key string, _ Object) bool {
			_, still := now[key]
			return !still
		})
	}
	return sorted(stay)
}

// absent are the objects that the records tell of, less those that are there.
func (l look) absent() map[string]Object {
	out := map[string]Object{}
	note := func(k Kind, name, owner, text string) {
		if !l.has(k, name) {
			o := Object{Kind: k, Name: name, Owner: owner, Text: text, Advice: "Remove the pod: crictl rmp -f. A kubelet makes a new one."}
			out[o.key()] = o
		}
	}
	for id, s := range l.sandboxes {
		if s.State != pod.Ready || s.BootID != l.boot {
			continue // half made, half removed, or of another boot
		}
		text := "sandbox " + s.Config.Namespace + "/" + s.Config.Name + " is ready"
		for _, kind := range pinsOf(s) {
			note(kindNamespace, filepath.Join(l.layout.Namespaces(id), kind), id, text)
		}
		note(kindFiles, l.layout.Shared(id), id, text)
		if s.Attached {
			note(kindAttachment, filepath.Join(l.layout.CNICache(), "attached", id+".conflist"), id, text)
		}
		if s.SharesPID() {
			l.absentProcess(note, id, text)
		}
	}
	for id, c := range l.containers {
		text := "container " + c.Config.Name + " is " + string(c.State)
		if _, ok := l.sandboxes[string(c.SandboxID)]; !ok {
			note(kindRecord, l.layout.SandboxRecord(string(c.SandboxID)), id, "container "+c.Config.Name+" tells of it")
		}
		if c.BootID != l.boot || c.State != pod.Running && c.State != pod.Created {
			continue
		}
		note(kindBundle, l.layout.Bundle(id), id, text)
		note(kindMount, l.layout.Rootfs(id), id, text)
		if c.State == pod.Running {
			l.absentProcess(note, id, text)
		}
	}
	return out
}

// absentProcess: what runs is known to the monitor and to the OCI runtime, unless its end is on record.
func (l look) absentProcess(note func(Kind, string, string, string), id, text string) {
	if l.has(kindExit, filepath.Join(l.layout.Monitor(), "exits", id)) {
		return
	}
	note(kindMonitor, filepath.Join(l.layout.Monitor(), "containers", id+".json"), id, text)
	note(kindRuntime, filepath.Join(l.layout.RuncRoot(), id), id, text)
}

// pinsOf are the namespaces that a sandbox has of its own, by the names of their files.
func pinsOf(s pod.Sandbox) []string {
	var out []string
	if !s.HostNetwork() {
		out = append(out, "net", "uts")
	}
	if !s.HostIPC() {
		out = append(out, "ipc")
	}
	if s.Config.Namespaces.User != nil {
		out = append(out, "user")
	}
	if s.SharesPID() {
		out = append(out, "pid")
	}
	return out
}
