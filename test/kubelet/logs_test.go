package kubelet

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// No line is lost or doubled when the kubelet renames the log and cri-shim opens it anew.
func testLogRotation(t *testing.T, w *world) {
	const name, lines = "rotation", 400
	// 400 lines of about 130 bytes: two files are full, and none of the three has to go.
	w.pod(t, name, "containers:\n"+shell("main",
		"i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i "+strings.Repeat("x", 80)+"; usleep 20000; done; echo end"+forever, ""))
	p := w.running(t, name)
	dir := "/var/log/pods/default_" + staticName(name) + "_" + p.Metadata.UID + "/main"
	w.eventually(t, "the log is rotated", 60*time.Second, func() string {
		text, err := w.Logs(t.Context(), name, "main", false)
		files, _ := filepath.Glob(dir + "/0.log*")
		if err != nil || len(files) < 2 || !strings.HasSuffix(text, "end\n") {
			return fmt.Sprintf("%d files, %v", len(files), err)
		}
		return ""
	})
	var seen []string
	w.eventually(t, "the log is whole", 10*time.Second, func() string { // it may be rotated once more while we read
		seen = readLogs(t, dir)
		if len(seen) != lines+1 {
			return fmt.Sprintf("%d lines, want %d", len(seen), lines+1)
		}
		return ""
	})
	for i, line := range seen[:lines] {
		if got, _, _ := strings.Cut(line, " "); got != fmt.Sprint(i+1) {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
}

// readLogs are the messages in all files of a container's log, the oldest first.
func readLogs(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(dir + "/0.log?*") // rotated ones by their time, then the one that is written
	must(t, err)
	slices.Sort(files)
	var out []string
	for _, path := range append(files, dir+"/0.log") {
		f, err := os.Open(path)
		if os.IsNotExist(err) {
			return nil // it has been compressed meanwhile
		}
		must(t, err)
		defer f.Close()
		var r io.Reader = f
		if strings.HasSuffix(path, ".gz") {
			r, err = gzip.NewReader(f)
			must(t, err)
		}
		for s := bufio.NewScanner(r); s.Scan(); {
			if _, message, ok := strings.Cut(s.Text(), " F "); ok {
				out = append(out, message)
			}
		}
	}
	return out
}

func testPreviousLog(t *testing.T, w *world) {
	const name = "previous"
	w.pod(t, name, "volumes: [{name: d, emptyDir: {}}]\ncontainers:\n"+
		shell("main", "if [ -e /d/again ]; then echo second; else touch /d/again; echo first; exit 1; fi"+forever,
			"volumeMounts: [{name: d, mountPath: /d}]"))
	w.until(t, name, "restarted", func(p Pod) bool { return p.Container("main").RestartCount == 1 && p.Container("main").Ready })
	before, err := w.Logs(t.Context(), name, "main", true)
	must(t, err)
	equal(t, "the log before", before, "first\n")
	w.logged(t, name, "main", "second\n")
}

func testTerminationMessage(t *testing.T, w *world) {
	const name = "message"
	w.pod(t, name, never+"containers:\n"+shell("standard", "echo log; printf 'all is well' >/dev/termination-log", "")+
		shell("other", "printf 'gone wrong' >/tmp/last; exit 4", "terminationMessagePath: /tmp/last"))
	p := w.ended(t, name, "Failed")
	equal(t, "end", exit(t, p.Container("other").State), "4 Error")
	equal(t, "message", p.Container("standard").State.Terminated.Message, "all is well")
	equal(t, "message at another path", p.Container("other").State.Terminated.Message, "gone wrong")
}

func testTerminationMessageLogs(t *testing.T, w *world) {
	const name = "message-logs"
	const policy = "terminationMessagePolicy: FallbackToLogsOnError"
	w.pod(t, name, never+"containers:\n"+shell("bad", "echo some; echo last words; exit 5", policy)+shell("good", "echo not this", policy))
	p := w.ended(t, name, "Failed")
	equal(t, "message", p.Container("bad").State.Terminated.Message, "some\nlast words\n")
	equal(t, "message of success", p.Container("good").State.Terminated.Message, "")
}
