package podnet

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

func (w *world) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestReady(t *testing.T) {
	w := newWorld(t)
	w.run(t)
	if err := w.Ready(); err != nil {
		t.Error(err)
	}
	if err := w.Ready(); err != nil {
		t.Error(err)
	}
	if got := w.commands(t); got != "STATUS  net1" {
		t.Errorf("the answer is kept for a while: %s", got)
	}
	w.remove(t, "bin/testnet")
	if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "testnet") {
		t.Errorf("got %v", err)
	}
	w.remove(t, "conf/10-net.conflist")
	if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "no CNI configuration in "+w.ConfDir) {
		t.Errorf("got %v", err)
	}
}

func TestReadyTellsWhatThePluginSays(t *testing.T) {
	w := newWorld(t)
	w.run(t)
	w.write(t, "fail-STATUS", `{"cniVersion":"1.1.0","code":50,"msg":"bridge is being renumbered"}`)
	if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "bridge is being renumbered") {
		t.Errorf("got %v", err)
	}
	// Another configuration has no old answer.
	w.remove(t, "fail-STATUS")
	w.configure(t, "05-new.conflist", "net2")
	if err := w.Ready(); err != nil {
		t.Error(err)
	}
	// An old answer is given at once while a new one is fetched.
	w.status.mu.Lock()
	w.status.at = w.status.at.Add(-time.Hour)
	w.status.mu.Unlock()
	w.write(t, "slow-STATUS", "")
	if err := w.Ready(); err != nil { // it would wait for the slow plugin, and then fail
		t.Error(err)
	}
}

func TestReadyNeverHangs(t *testing.T) {
	w := newWorld(t)
	w.run(t)
	w.write(t, "slow-STATUS", "")
	w.firstWait = firstWait
	if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "not answered yet") {
		t.Errorf("got %v", err)
	}
	older := newWorld(t)
	older.run(t)
	older.write(t, "conf/10-net.conflist", strings.ReplaceAll(older.list("net1", ""), "1.1.0", "1.0.0"))
	if err := older.Ready(); err != nil || older.commands(t) != "" {
		t.Errorf("STATUS is of CNI 1.1: %v", err)
	}
}

func TestGC(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"aa", "bb"} {
		if _, err := w.Attach(t.Context(), w.attachment(id)); err != nil {
			t.Fatal(err)
		}
	}
	w.write(t, "cni/attached/x.conflist.durable-tmp-1", "left by a killed process")
	w.calls(t)
	if err := w.GC(t.Context(), func() []pod.Attachment { return []pod.Attachment{w.attachment("bb")} }); err != nil {
		t.Fatal(err)
	}
	calls := w.calls(t)
	if len(calls) != 2 || calls[0].Command != "DEL" || calls[0].ID != "aa" || calls[1].Command != "GC" {
		t.Fatalf("got %+v", calls)
	}
	valid := calls[1].Conf["cni.dev/valid-attachments"].([]any)
	if len(valid) != 1 || valid[0].(map[string]any)["containerID"] != "bb" || valid[0].(map[string]any)["ifname"] != "eth0" {
		t.Errorf("valid attachments: %v", valid)
	}
	if err := w.Detach(t.Context(), w.attachment("bb")); err != nil {
		t.Fatal(err)
	}
	w.mustBeEmpty(t)
	w.calls(t)
	if err := w.GC(t.Context(), func() []pod.Attachment { return nil }); err != nil {
		t.Fatal(err)
	}
	if v, ok := w.calls(t)[0].Conf["cni.dev/valid-attachments"].([]any); !ok || len(v) != 0 {
		t.Errorf("an empty list is not null: %v", v)
	}
}

func TestGCLeavesOtherUsersAlone(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t, func(o *Options) { o.UsersDir = w.UsersDir })
	other.write(t, "conf/10-net.conflist", w.list("net1", ""))
	if _, err := other.Attach(t.Context(), other.attachment("cc")); err != nil {
		t.Fatal(err)
	}
	w.write(t, "cni/attached/dead.conflist", w.list("net1", ""))
	w.calls(t)
	if err := w.GC(t.Context(), func() []pod.Attachment { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := w.commands(t); got != "DEL dead net1" {
		t.Errorf("got %s", got)
	}
	if err := other.Detach(t.Context(), other.attachment("cc")); err != nil {
		t.Fatal(err)
	}
	w.calls(t)
	if err := w.GC(t.Context(), func() []pod.Attachment { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := w.commands(t); got != "GC  net1" {
		t.Errorf("alone again: %s", got)
	}
	if _, err := os.Stat(w.UsersDir); err == nil {
		t.Error("signatures are left behind")
	}
}

func TestGCWaitsAndKeepsWaiting(t *testing.T) {
	w := newWorld(t)
	inside := make(chan struct{})
	release := make(chan struct{})
	gc := make(chan error, 1)
	go func() {
		gc <- w.GC(context.Background(), func() []pod.Attachment { close(inside); <-release; return nil })
	}()
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.Attach(ctx, w.attachment("aa")); err == nil || !strings.Contains(err.Error(), "CNI GC") {
		t.Errorf("ADD during GC: %v", err)
	}
	close(release)
	if err := <-gc; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "cni/attached/aa.conflist")); err == nil {
		t.Error("an ADD that never began left an intent")
	}
}
