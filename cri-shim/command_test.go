package crishim

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/podwright/podwright/conf"
)

func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	c := Command("1.2.3")
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetArgs(args)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestConfigCommands(t *testing.T) {
	out, err := execute(t, "config", "default")
	if err != nil || out != conf.CRIShim {
		t.Errorf("got %q, %v", out, err)
	}
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := execute(t, "config", "check", file); err != nil || out != file+": ok\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if err := os.WriteFile(file, []byte("rot = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, "config", "check", file); ExitCode(err) != 2 || !strings.Contains(err.Error(), "rot") {
		t.Errorf("got %v", err)
	}
	if out, err := execute(t, "version"); err != nil || out != "cri-shim 1.2.3\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestWrongUse(t *testing.T) {
	for _, args := range [][]string{
		{"nonsense"}, {"serve", "--nope"}, {"serve", "x"}, {"config", "check"}, {"config", "nope"}, {"serve", "--config", "/does/not/exist"},
		{"serve", "--root", "relative"}, {"serve", "--log-level", "loud"}, {"serve", "--runtime", ""},
		{"import"}, {"import", "--name", "x:1", "a", "b"}, {"import", "--config", "/does/not/exist", "-"}, {"import", "--listen", "", "--state", "relative", "-"},
		{"doctor", "x"}, {"doctor", "-o", "yaml"}, {"doctor", "--config", "/does/not/exist"}, {"doctor", "--state", "relative"},
	} {
		if _, err := execute(t, args...); ExitCode(err) != 2 || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestDoctorCommand: without a network there is a finding, and without root nothing can be said.
func TestDoctorCommand(t *testing.T) {
	dir := t.TempDir()
	out, err := execute(t, "doctor", "--root", dir+"/root", "--state", dir+"/state", "--cni-conf-dir", dir, "-o", "json")
	if os.Geteuid() != 0 {
		if ExitCode(err) != 2 || !strings.Contains(err.Error(), "root") || out != "" {
			t.Errorf("got %q, %v", out, err)
		}
		return
	}
	var report struct {
		Host               []struct{ Level, Check, Text, Advice string }
		Leftovers, Missing []any
	}
	if ExitCode(err) != 1 || json.Unmarshal([]byte(out), &report) != nil || len(report.Leftovers)+len(report.Missing) != 0 {
		t.Fatalf("got %s, %v", out, err)
	}
	for _, f := range report.Host {
		if f.Level != "ok" && f.Advice == "" {
			t.Errorf("%+v says nothing of what to do", f)
		}
		if f.Check == "CNI" && (f.Level != "fail" || !strings.Contains(f.Text, dir)) {
			t.Errorf("got %+v", f)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("it made %v, %v", entries, err)
	}
	// A plugin that cannot answer leaves leases unseen, which must not look clean.
	plugin := dir + "/bridge-ipam"
	conf := `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge-ipam"}]}`
	if err := errors.Join(os.WriteFile(plugin, []byte("#!/bin/sh\nexit 1\n"), 0o700), os.WriteFile(dir+"/10.conflist", []byte(conf), 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err = execute(t, "doctor", "--root", dir+"/root", "--state", dir+"/state", "--cni-conf-dir", dir, "--cni-bin-dir", dir)
	if ExitCode(err) != 2 || !strings.Contains(err.Error(), "could not look") {
		t.Errorf("got %v", err)
	}
}

func TestFlagsStandAboveTheFile(t *testing.T) {
	cfg := Default()
	cfg.Root, cfg.Listen = "/file", "/file.sock"
	var o overrides
	c := &cobra.Command{Use: "x"}
	o.flags(c)
	err := c.ParseFlags([]string{
		"--root=/r", "--state", "/s", "--listen", "", "--cni-conf-dir", "/c", "--cni-bin-dir", "/b1", "--cni-bin-dir", "/b2",
		"--registry-config-dir", "/g", "--runtime", "crun", "--log-level", "debug",
	})
	if err != nil {
		t.Fatal(err)
	}
	o.apply(c, &cfg)
	if cfg.Root != "/r" || cfg.State != "/s" || cfg.Socket() != "/s/cri-shim.sock" || cfg.CNI.ConfDir != "/c" || strings.Join(cfg.CNI.BinDirs, ",") != "/b1,/b2" ||
		cfg.Image.RegistryConfigDir != "/g" || cfg.Runtime != "crun" || cfg.Log.Level != "debug" {
		t.Errorf("got %+v", cfg)
	}
}

func TestHelpNamesTheExitCodes(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"serve", "--help"}} {
		if out, err := execute(t, args...); err != nil || !strings.Contains(out, "Exit codes: 0") {
			t.Errorf("%q: %q, %v", args, out, err)
		}
	}
}
