package kubelet

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testEmptyDir(t *testing.T, w *world) {
	const name = "emptydir"
	const mounts = "volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]"
	w.pod(t, name, "volumes: [{name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory, sizeLimit: 16Mi}}]\ncontainers:\n"+
		shell("writer", "echo on disk >/disk/file; echo in memory >/memory/file"+forever, mounts)+shell("reader", "true"+forever, mounts))
	w.running(t, name)
	w.eventually(t, "both files", 10*time.Second, func() string {
		out, err := w.Run(t.Context(), name, "reader", "cat /disk/file /memory/file")
		if err != nil || out != "on disk\nin memory\n" {
			return out
		}
		return ""
	})
	for line := range strings.Lines(w.run(t, name, "reader", "cat /proc/mounts")) {
		if f := strings.Fields(line); f[1] == "/memory" {
			equal(t, "kind of the one in memory", f[2], "tmpfs")
			contains(t, "its size", f[3], "size=16384k")
			return
		}
	}
	t.Error("the one in memory is not a mount")
}

func testHostPath(t *testing.T, w *world) {
	const name = "hostpath"
	dir, volume := w.hostDir(t, name)
	must(t, os.WriteFile(dir+"/file", []byte("of the host\n"), 0o644))
	w.pod(t, name, never+"volumes:\n"+volume+"- {name: file, hostPath: {path: "+dir+"/file, type: File}}\n"+
		"- {name: made, hostPath: {path: "+dir+"/made/deep, type: DirectoryOrCreate}}\n- {name: new, hostPath: {path: "+dir+"/new, type: FileOrCreate}}\ncontainers:\n"+
		shell("main", "cat /file; touch /made/here; echo text >/new; touch /ro/x || echo read-only",
			"volumeMounts: [{name: file, mountPath: /file}, {name: made, mountPath: /made}, {name: new, mountPath: /new}, {name: host, mountPath: /ro, readOnly: true}]"))
	w.ended(t, name, "Succeeded")
	contains(t, "log", w.logs(t, name, "main"), "of the host\n", "Read-only file system", "read-only\n")
	equal(t, "the new file", file(dir+"/new"), "text\n")
	if _, err := os.Stat(dir + "/made/deep/here"); err != nil {
		t.Error(err)
	}
}

func testDownward(t *testing.T, w *world) {
	const name = "downward"
	w.pod(t, name, never+`
volumes:
- name: info
  downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
- name: more
  downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}, {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}]}
containers:
`+shell("main", `cat /info/labels; echo; cat /more/name; echo; cat /more/cpu; echo; echo "$IP $NODE $TEAM"`, `
resources: {limits: {cpu: 250m}}
volumeMounts: [{name: info, mountPath: /info}, {name: more, mountPath: /more}]
env:
- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: TEAM, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['team']"}}}`))
	p := w.ended(t, name, "Succeeded")
	equal(t, "log", w.logs(t, name, "main"), "app=\"downward\"\n"+staticName(name)+"\n250\n"+p.Status.PodIP+" "+Hostname+" tests\n")
}

func testSubPath(t *testing.T, w *world) {
	const name = "subpath"
	dir, volume := w.hostDir(t, name)
	must(t, os.WriteFile(dir+"/one", []byte("one file\n"), 0o644))
	w.pod(t, name, never+"volumes:\n"+volume+"containers:\n"+shell("main", "cat /etc/one; touch /sub/made /mine/made", `
env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
volumeMounts:
- {name: host, mountPath: /etc/one, subPath: one}
- {name: host, mountPath: /sub, subPath: a/b}
- {name: host, mountPath: /mine, subPathExpr: $(POD)}`))
	w.ended(t, name, "Succeeded")
	equal(t, "log", w.logs(t, name, "main"), "one file\n")
	for _, path := range []string{"/a/b/made", "/" + staticName(name) + "/made"} {
		if _, err := os.Stat(dir + path); err != nil {
			t.Error(err)
		}
	}
}

// mounted mounts something at a path until the end of the test.
func mounted(t *testing.T, source, target, kind string, flags uintptr) {
	t.Helper()
	must(t, unix.Mount(source, target, kind, flags, ""))
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	})
}

// sharedDir is a hostDir that passes mounts on, as all of a host does that was booted by systemd.
func (w *world) sharedDir(t *testing.T, pod string) (dir, volume string) {
	t.Helper()
	dir, volume = w.hostDir(t, pod)
	mounted(t, dir, dir, "", unix.MS_BIND)
	must(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	return dir, volume
}

func testPropagation(t *testing.T, w *world) {
	const name = "propagation"
	dir, volume := w.sharedDir(t, name)
	for _, sub := range []string{"/down", "/up"} {
		must(t, os.Mkdir(dir+sub, 0o755))
	}
	w.pod(t, name, "volumes:\n"+volume+"containers:\n"+
		shell("follower", "true"+forever, "volumeMounts: [{name: host, mountPath: /host, mountPropagation: HostToContainer}]")+
		shell("none", "true"+forever, "volumeMounts: [{name: host, mountPath: /host}]")+
		shell("giver", "mount -t tmpfs giver /host/up; touch /host/up/inside"+forever,
			"securityContext: {privileged: true}\nvolumeMounts: [{name: host, mountPath: /host, mountPropagation: Bidirectional}]"))
	w.running(t, name)
	w.eventually(t, "a mount of the container is the host's", 10*time.Second, func() string {
		if _, err := os.Stat(dir + "/up/inside"); err != nil {
			return err.Error()
		}
		return ""
	})
	t.Cleanup(func() {
		if err := unix.Unmount(dir+"/up", 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	mounted(t, "later", dir+"/down", "tmpfs", 0)
	must(t, os.WriteFile(dir+"/down/later", nil, 0o644))
	contains(t, "a later mount of the host", w.run(t, name, "follower", "ls /host/down /host/up"), "later", "inside")
	equal(t, "what stays private", w.run(t, name, "none", "ls /host/down"), "")
}

// What is mounted below a read-only mount stays writable, as Kubernetes has it, unless a pod asks for more; a kubelet without
// an API server believes no runtime that it can do that.
func testReadOnlyMounts(t *testing.T, w *world) {
	const name = "readonly"
	dir, volume := w.sharedDir(t, name)
	must(t, os.Mkdir(dir+"/below", 0o755))
	mounted(t, "below", dir+"/below", "tmpfs", 0)
	w.pod(t, name, never+"volumes:\n"+volume+"containers:\n"+
		shell("main", "touch /flat/x || echo refused; touch /flat/below/x && echo as asked",
			"volumeMounts: [{name: host, mountPath: /flat, readOnly: true, recursiveReadOnly: IfPossible}]"))
	w.ended(t, name, "Succeeded")
	contains(t, "log", w.logs(t, name, "main"), "refused\n", "as asked\n")
}

// A path that is not there, with no type, is what many manifests say of a directory that the program fills.
func testMissingHostPath(t *testing.T, w *world) {
	const name = "missingpath"
	w.pod(t, name, never+"volumes: [{name: v, hostPath: {path: "+w.dir+"/not/there}}]\ncontainers:\n"+
		shell("main", "touch /v/made", "volumeMounts: [{name: v, mountPath: /v}]"))
	w.ended(t, name, "Succeeded")
	if _, err := os.Stat(w.dir + "/not/there/made"); err != nil {
		t.Error(err)
	}
}

// With the CRI's own rule the pod's author is told.
func testMissingHostPathRefused(t *testing.T, w *world) {
	const name = "missingrefused"
	w.pod(t, name, never+"volumes: [{name: v, hostPath: {path: "+w.dir+"/not/there}}]\ncontainers:\n"+
		shell("main", "touch /v/made", "volumeMounts: [{name: v, mountPath: /v}]"))
	contains(t, "message", w.waits(t, name, "CreateContainerError"), w.dir+"/not/there", "does not exist")
}

func testConfigMap(t *testing.T, _ *world) {
	t.Skip("a kubelet without an API server has no config maps, secrets, tokens and projected volumes; to cri-shim all are directories of the host")
}

func testImageVolume(t *testing.T, w *world) {
	const name = "imagevolume"
	w.pod(t, name, never+"volumes: [{name: v, image: {reference: '"+image+"', pullPolicy: IfNotPresent}}]\ncontainers:\n"+
		shell("main", "cat /v/etc/passwd; touch /v/x || echo read-only", "volumeMounts: [{name: v, mountPath: /v}]"))
	w.ended(t, name, "Succeeded")
	contains(t, "log", w.logs(t, name, "main"), "root:x:0:0", "read-only\n")
}
